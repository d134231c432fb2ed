"""The units of systemd/: what they run is run here as they say, without systemd (fake engine)."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from headrace.protocol.config import PoolOptions
from tests.end_to_end.lifecycle.fake_systemd import NotifySocket, passing
from tests.end_to_end.servers import wait_for

UNITS = Path(__file__).parents[3] / "systemd"
INSTALLED = "/opt/headrace/bin/headrace"
HEADRACE = str(Path(sys.executable).with_name("headrace"))
READY_TEXT = "2 of 2 workers ready, 2 of 2 frontends"


def command_of(unit: str, flags: str = "") -> list[str]:
    """ExecStart of a unit or of an instance, with the specifiers and variables that it uses."""
    name, at, rest = unit.partition("@")
    text = (UNITS / f"{name}{at}.service").read_text()
    (line,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    line = line.replace("%i", rest).replace("$HEADRACE_FLAGS", flags)
    assert "%" not in line
    assert "$" not in line
    first, *arguments = shlex.split(line)
    assert first == INSTALLED
    return [HEADRACE, *arguments]


class Unit:
    """A process that was started as its unit says, and what it tells systemd."""

    def __init__(self, pool: "Pool", name: str) -> None:
        self.notify = NotifySocket()
        self._log = (pool.run_dir.parent / f"{name}.log").open("a+")
        command = command_of(name)
        if "frontend" in name:
            command = passing(pool.listener, command)
        self.process = subprocess.Popen(
            command,
            env=pool.environment | {"NOTIFY_SOCKET": str(self.notify.path)},
            pass_fds=[pool.listener.fileno()],
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text()

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()
        self.notify.close()


class Pool:
    """systemd in small: it prepares, holds the socket, starts units and restarts them."""

    def __init__(self, folder: Path, model: Path, cache_dir: Path) -> None:
        self.run_dir = folder / "run"
        self.run_dir.mkdir(mode=0o700)
        self.environment = os.environ | {
            "RUNTIME_DIRECTORY": str(self.run_dir),
            "HEADRACE_CACHE": str(cache_dir),
            "HF_HUB_OFFLINE": "1",
            "WATCHDOG_USEC": "1000000",
        }
        self._flags = f"--engine fake --fake-step-s 0.01 --model {model} --workers 2"
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen()
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.units: dict[str, Unit] = {}

    def prepare(self, flags: str = "") -> subprocess.CompletedProcess[str]:
        command = command_of("headrace-prepare", f"{self._flags} {flags}")
        return self.run(command)

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self, *names: str) -> None:
        """Start units, or start them again."""
        for name in names:
            if name in self.units:
                self.units.pop(name).close()
            self.units[name] = Unit(self, name)

    def wait_until_ready(self, *names: str) -> None:
        for name in names or self.units:
            self.units[name].notify.wait_for("READY=1")

    def complete(self) -> str:
        """A text; any failure raises."""
        request = {"prompt": "hello", "max_tokens": 40, "ignore_eos": True}
        answer = httpx.post(f"{self.url}/v1/completions", json=request, timeout=60)
        answer.raise_for_status()
        text: str = answer.json()["choices"][0]["text"]
        return text

    def status(self) -> str:
        return self.units["headrace-coordinator"].notify.status

    def close(self) -> None:
        for unit in self.units.values():
            unit.close()
        self.listener.close()


FRONTENDS = ("headrace-frontend@0", "headrace-frontend@1")
WORKERS = ("headrace-worker@0", "headrace-worker@1")
ALL = ("headrace-coordinator", *WORKERS, *FRONTENDS)


@pytest.fixture(scope="module")
def pool(
    fake_model: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pool]:
    pool = Pool(tmp_path_factory.mktemp("units"), fake_model, cache_dir)
    try:
        prepared = pool.prepare()
        assert prepared.returncode == 0, prepared.stderr
        assert "prepared 2 frontends and 2 workers" in prepared.stderr
        pool.start(*ALL)
        pool.wait_until_ready()
        yield pool
    finally:
        pool.close()


@pytest.fixture(scope="module")
def expected(pool: Pool) -> str:
    return pool.complete()


@pytest.mark.parametrize("name", ALL)
def test_killed_unit_is_started_again_and_serves(pool: Pool, expected: str, name: str) -> None:
    wait_for(lambda: READY_TEXT in pool.status(), "the pool is complete")
    pool.units[name].end(signal.SIGKILL)
    if name != "headrace-coordinator":
        wait_for(lambda: READY_TEXT not in pool.status(), "its end is noticed")
    for _ in range(2):
        assert pool.complete() == expected
    pool.start(name)
    pool.wait_until_ready(name)
    wait_for(lambda: READY_TEXT in pool.status(), "the pool is complete again")
    for _ in range(2):
        assert pool.complete() == expected


def test_each_start_has_an_id_of_its_own(pool: Pool) -> None:
    locks = sorted((pool.run_dir / "roll" / "worker").iterdir())
    assert [lock.name for lock in locks] == ["default-0", "default-1"]
    before = locks[1].read_text().split()
    pool.units["headrace-worker@1"].end(signal.SIGKILL)
    pool.start("headrace-worker@1")
    pool.wait_until_ready("headrace-worker@1")
    after = locks[1].read_text().split()
    assert int(after[0]) == int(before[0]) + 1
    assert int(after[1]) == pool.units["headrace-worker@1"].process.pid
    ended = pool.run_dir / f"default-1.{before[0]}"
    wait_for(lambda: not ended.exists(), "the socket of the one before is gone")


def test_all_feed_their_watchdogs(pool: Pool) -> None:
    pool.wait_until_ready()
    for unit in pool.units.values():
        unit.notify.forget()
    for unit in pool.units.values():
        unit.notify.wait_for("WATCHDOG=1", timeout_s=5)


def test_frozen_worker_is_killed_by_the_coordinator(
    fake_model: Path, cache_dir: Path, tmp_path: Path
) -> None:
    pool = Pool(tmp_path, fake_model, cache_dir)
    try:
        assert pool.prepare("--stall-timeout 1.5").returncode == 0
        pool.start(*ALL)
        pool.wait_until_ready()
        wait_for(lambda: READY_TEXT in pool.status(), "the pool is complete")
        frozen = pool.units["headrace-worker@0"].process
        frozen.send_signal(signal.SIGSTOP)
        wait_for(lambda: frozen.poll() == -signal.SIGKILL, "it is killed", timeout_s=10)
        assert pool.complete()
    finally:
        pool.close()


def test_units_know_keys_by_their_digests_alone(
    fake_model: Path, cache_dir: Path, tmp_path: Path
) -> None:
    keys = {"HEADRACE_API_KEY": "key-of-clients", "HEADRACE_ADMIN_KEY": "key-of-operators"}
    pool = Pool(tmp_path, fake_model, cache_dir)
    pool.environment |= keys | {"HEADRACE_FLAGS": "--api-key key-of-clients"}
    try:
        assert pool.prepare("--enable-admin").returncode == 0
        pool.start("headrace-coordinator", "headrace-frontend@0", "headrace-worker@0")
        pool.wait_until_ready()
        statuses = [
            httpx.get(f"{pool.url}{path}", headers={"x-api-key": key}).status_code
            for key in ("", *keys.values())
            for path in ("/v1/models", "/server_info")
        ]
        assert statuses == [401, 401, 200, 403, 200, 200]
        for unit in pool.units.values():
            inherited = Path(f"/proc/{unit.process.pid}/environ").read_text()
            assert "RUNTIME_DIRECTORY" in inherited
            assert "key-of-" not in inherited
        assert "key-of-" not in (pool.run_dir / "pool.json").read_text()
    finally:
        pool.close()


def test_stopping_in_the_order_of_the_units_leaves_nothing(
    fake_model: Path, cache_dir: Path, tmp_path: Path
) -> None:
    pool = Pool(tmp_path, fake_model, cache_dir)
    try:
        assert pool.prepare().returncode == 0
        pool.start(*ALL)
        pool.wait_until_ready()
        failed = pool.prepare()
        assert failed.returncode == 2
        assert failed.stderr == (
            "headrace: error: prepare: the pool runs; stop its processes first\n"
        )
        for name in (*FRONTENDS, *WORKERS, "headrace-coordinator"):
            unit = pool.units[name]
            assert unit.end(signal.SIGTERM) == 0, unit.log
            unit.notify.wait_for("STOPPING=1", timeout_s=1)
            assert "Traceback" not in unit.log
        assert pool.prepare().returncode == 0
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["worker", "2"], "worker 2: the pool has 2 (--workers)"),
        (["worker", "-1"], "worker -1: they are numbered from 0"),
        (["worker", "one"], "argument number: invalid int value: 'one'"),
        (["worker"], "the following arguments are required: number"),
        (["worker", "0"], "default-0: runs already"),
        (["coordinator"], "coordinator: runs already"),
        (["frontend", "2"], "frontend 2: the pool has 2 (--frontends)"),
        (["frontend", "0"], "frontend 0: no socket was passed: see Sockets= of its unit"),
        (["coordinator", "--run-dir", "/does/not/exist"], "--run-dir: /does/not/exist: no such"),
        (["worker", "0", "--run-dir", str(UNITS)], f"{UNITS}: nothing is prepared there"),
        (["prepare", "--port", "1"], "--port: the socket comes from systemd: see its ListenS"),
    ],
)
def test_wrong_start_says_so_in_one_line(pool: Pool, arguments: list[str], said: str) -> None:
    done = pool.run([HEADRACE, *arguments])
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"headrace: error: {said}")


def test_no_folder_to_meet_in_says_so_in_one_line(pool: Pool) -> None:
    environment = {key: pool.environment[key] for key in pool.environment}
    del environment["RUNTIME_DIRECTORY"]
    done = subprocess.run(
        [HEADRACE, "worker", "0"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert (
        done.stderr == "headrace: error: --run-dir: is needed where RUNTIME_DIRECTORY is not set\n"
    )


def test_target_brings_as_many_as_are_asked_for_by_default() -> None:
    text = (UNITS / "headrace.target").read_text()
    wanted = re.findall(r"headrace-frontend@(\d+)\.service", text)
    assert wanted == [str(number) for number in range(PoolOptions().frontends)]
    assert re.findall(r"headrace-worker@(\d+)\.service", text) == ["0"]


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is not installed (Debian: apt-get install systemd)",
)
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    """Its exit status is 0 despite ordering cycles, too: it must print nothing."""
    files = [file for file in UNITS.iterdir() if file.suffix in (".service", ".socket", ".target")]
    assert len(files) == 9
    for file in files:
        (tmp_path / file.name).write_text(file.read_text().replace(INSTALLED, HEADRACE))
    copies = sorted(str(file) for file in tmp_path.iterdir())
    done = subprocess.run(
        ["systemd-analyze", "verify", *copies],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    about_ours = [line for line in done.stderr.splitlines() if "headrace" in line]
    assert (done.returncode, about_ours) == (0, []), done.stderr
