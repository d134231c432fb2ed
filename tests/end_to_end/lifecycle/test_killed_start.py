"""A launcher that is killed while it starts: nothing of it stays, or is in the next one's way."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from tests.end_to_end.servers import START_TIMEOUT_S, wait_for

# A start takes about two seconds when the model has been prepared. Several at once take longer.
KILLED_AFTER_S = (0.2, 0.5, 1.0, 1.5, 2.5)
MARK = "HEADRACE_TEST_START"


@dataclass
class Start:
    """A folder to start a pool in, again and again. cache: where its model is prepared. port, uds:
    where it listens; by default on a Unix socket in the folder."""

    folder: Path
    model: Path
    cache: Path
    port: int = 0
    uds: Path | None = None
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def begin(self, *more: str) -> subprocess.Popen[bytes]:
        where = ["--port", str(self.port)] if self.port else ["--uds", str(self.socket)]
        flags = ["--engine", "fake", "--model", str(self.model), "--frontends", "1", *where, *more]
        command = [str(Path(sys.executable).with_name("headrace")), "serve", *flags]
        own = {"HF_HUB_OFFLINE": "1", "HEADRACE_CACHE": str(self.cache), MARK: str(self.folder)}
        with (self.folder / "log").open("w") as log:
            process = subprocess.Popen(
                [*command, "--workers", "1", "--run-dir", str(self.folder / "run")],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | own,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    @property
    def socket(self) -> Path:
        return self.uds or self.folder / "socket"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def health(self) -> int:
        uds = None if self.port else str(self.socket)
        url = f"http://127.0.0.1:{self.port}/health" if self.port else "http://localhost/health"
        with httpx.Client(transport=httpx.HTTPTransport(uds=uds), timeout=20) as client:
            return client.get(url).status_code

    def family(self) -> list[psutil.Process]:
        """All its processes that run, with any parent."""
        return [each for each in psutil.process_iter() if _environment(each) == str(self.folder)]

    def wait_until_ready(self) -> None:
        ended = self.processes[-1].poll
        wait_for(
            lambda: "Headrace serves" in self.log or ended() is not None, self.log, START_TIMEOUT_S
        )
        assert ended() is None, self.log

    def end(self) -> int:
        """The exit status of the last start."""
        self.processes[-1].send_signal(signal.SIGTERM)
        return self.processes[-1].wait(20)

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def _environment(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK)
    except psutil.Error:
        return None


@pytest.fixture(scope="module")
def warm_cache(fake_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which a model has been prepared."""
    folder = tmp_path_factory.mktemp("warm")
    start = Start(folder, fake_model, folder / "cache")
    start.begin()
    try:
        start.wait_until_ready()
        assert start.end() == 0
    finally:
        start.stop()
    return start.cache


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def killed(
    fake_model: Path, warm_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Start]]:
    """Starts that were killed, by their names, and that have been begun once more since."""

    def folder() -> Path:
        return tmp_path_factory.mktemp("k")

    starts = {f"after {s} s": Start(folder(), fake_model, warm_cache) for s in KILLED_AFTER_S}
    starts["on a port"] = Start(folder(), fake_model, warm_cache, free_port())
    starts["while it prepares"] = Start(cold := folder(), fake_model, cold / "cache")
    times = dict(zip(starts, [*KILLED_AFTER_S, KILLED_AFTER_S[-1], 1.2], strict=True))
    begun_at = time.monotonic()
    for start in starts.values():
        start.begin()
    for name in sorted(starts, key=times.__getitem__):
        time.sleep(max(0.0, begun_at + times[name] - time.monotonic()))
        starts[name].processes[0].kill()
        starts[name].processes[0].wait()
    for start in starts.values():
        wait_for(lambda: not start.family(), "nothing is left", timeout_s=5)  # noqa: B023
    for start in starts.values():
        start.begin()
    yield starts
    for start in starts.values():
        start.stop()


NAMES = [*(f"after {seconds} s" for seconds in KILLED_AFTER_S), "on a port", "while it prepares"]


@pytest.mark.parametrize("name", NAMES)
def test_the_next_start_works(name: str, killed: dict[str, Start]) -> None:
    start = killed[name]
    start.wait_until_ready()
    assert start.health() == 200
    assert start.end() == 0
    assert not start.family()
    assert not (start.folder / "run").exists()
    assert not start.socket.exists()
    assert not list(start.folder.glob("*.lock"))


def test_socket_of_a_start_that_prepares_its_model_is_left_to_it(
    fake_model: Path, warm_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("k")
    first = Start(folder, fake_model, folder / "cache")
    second = Start(tmp_path_factory.mktemp("k"), fake_model, warm_cache, uds=first.socket)
    try:
        first.begin()
        wait_for(lambda: "preparing the tokenizer" in first.log, "it prepares", START_TIMEOUT_S)
        assert second.begin().wait(START_TIMEOUT_S) == 2
        assert "Headrace serves" not in first.log, "it has listened already: this shows nothing"
        (line,) = second.log.splitlines()
        assert f"--uds: cannot listen on {first.socket}: Address already in use" in line
        first.wait_until_ready()
        assert first.health() == 200
        assert second.begin().wait(START_TIMEOUT_S) == 2, "nor is it taken when it serves"
        assert first.end() == 0
        second.begin()
        second.wait_until_ready()
        assert second.health() == 200
    finally:
        first.stop()
        second.stop()


def test_check_of_a_parser_ends_with_the_launcher(
    fake_model: Path, warm_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The plug-in is the operator's, and may run for long."""
    start = Start(folder := tmp_path_factory.mktemp("k"), fake_model, warm_cache)
    plugin, runs = folder / "plugin.py", folder / "runs"
    plugin.write_text(f"import time\nopen({str(runs)!r}, 'w')\ntime.sleep(600)")
    try:
        start.begin("--tool-call-parser", "x", "--tool-parser-plugin", str(plugin))
        wait_for(runs.exists, "the plug-in runs")
        (check,) = psutil.Process(start.processes[0].pid).children()
        start.stop()
        _gone, alive = psutil.wait_procs([check], timeout=10)
        assert not alive
    finally:
        start.stop()
        for process in start.family():
            process.kill()
