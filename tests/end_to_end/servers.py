"""Real processes: `headrace serve` on a port that the system chooses, and waiting for it."""

import contextlib
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import httpx
import psutil

START_TIMEOUT_S = 120.0
MIN_TRIES = 20
# Nothing here is encrypted, and a client that reads certificates takes ten times as long as asking.
NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Server:
    """A running pool. `url`: where it serves. `log`: what the processes have written so far.

    variables: of its environment. key: which its clients send. context: with which certificates
    are checked. wrapper: a command that runs the command after it, such as unshare.
    running: all that have been started and not stopped.
    """

    running: ClassVar[list["Server"]] = []

    def __init__(
        self,
        flags: list[str],
        cache_dir: Path | None = None,
        run_dir: Path | None = None,
        wrapper: Sequence[str] = (),
        variables: dict[str, str] | None = None,
        key: str = "",
        context: ssl.SSLContext = NO_CERTIFICATES,
    ) -> None:
        self._context = context
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        folder = Path(tempfile.mkdtemp(prefix="hr-"))
        self.run_dir, self._log = run_dir or folder / "run", folder / "log"
        # The console script, as users run it.
        command = [*wrapper, str(Path(sys.executable).with_name("headrace")), "serve", *flags]
        if "--uds" not in flags:
            command += ["--port", "0"]
        cache = {} if cache_dir is None else {"HEADRACE_CACHE": str(cache_dir)}
        self._last_log: str | None = None
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--run-dir", str(self.run_dir)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"HF_HUB_OFFLINE": "1"} | cache | (variables or {}),
                start_new_session=True,
            )
        self.url = self._wait_until_ready()
        self.client = self.new_client()
        Server.running.append(self)

    @property
    def log(self) -> str:
        return self._log.read_text() if self._last_log is None else self._last_log

    def new_client(self) -> httpx.Client:
        """One with connections of its own: any frontend may answer."""
        return httpx.Client(
            base_url=self.url, timeout=60, verify=self._context, headers=self.headers
        )

    def get(self, path: str) -> httpx.Response:
        """An answer on a connection of its own."""
        with self.new_client() as client:
            return client.get(path)

    def _wait_until_ready(self) -> str:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            found = re.search(r'(?:^|")Headrace serves .* at ([^"\n]+)', self.log, re.MULTILINE)
            if found:
                return found[1]
            time.sleep(0.02)
        self.process.kill()
        raise AssertionError(f"the server did not come up:\n{self.log}")

    def children(self, module: str = "") -> list[psutil.Process]:
        """The launcher's processes, oldest first; module: those that run it alone."""
        processes = psutil.Process(self.process.pid).children()
        chosen = []
        for process in processes:
            try:
                if module in " ".join(process.cmdline()):
                    chosen.append(process)
            except psutil.NoSuchProcess:
                continue
        return sorted(chosen, key=lambda process: process.create_time())

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        total = 0.0
        answer = self.get("/metrics")
        assert answer.status_code == 200, answer.text  # else it would look like an idle server
        for line in answer.text.splitlines():
            found = re.fullmatch(r"([\w:]+)(?:\{(.*)\})? (\S+)", line)
            if found and found[1] == name:
                has = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
                if labels.items() <= has.items():
                    total += float(found[3])
        return total

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        """Send a signal and wait for the end; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout_s)
        finally:
            if self in Server.running:  # else stopped before
                Server.running.remove(self)
            self.client.close()
            self.process.kill()
            self.process.wait()
            self._last_log = self.log
            self._log.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty if the launcher was killed
                self._log.parent.rmdir()


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
    """Poll until a condition holds; AssertionError if it does not come to hold in time."""
    deadline = time.monotonic() + timeout_s
    tries = 0
    # A machine that stands still for as long has not let the pool do anything.
    while time.monotonic() < deadline or tries < MIN_TRIES:
        if condition():
            return
        tries += 1
        time.sleep(0.05)  # asking takes the pool more time than waiting
    raise AssertionError(f"not within {timeout_s} s and {tries} tries: {what}")


def kill_workers(server: Server, timeout_s: float = 60.0) -> None:
    """Kill all workers, and wait until as many others are ready."""
    before = server.children("headrace.workers.main")
    for worker in before:
        worker.kill()
    gone = {worker.pid for worker in before}

    def are_replaced() -> bool:
        now = {worker.pid for worker in server.children("headrace.workers.main")}
        ready = sum(group["ready"] for group in server.get("/health?verbose").json()["groups"])
        return len(now) == ready == len(before) and not now & gone

    wait_for(are_replaced, "other workers", timeout_s)


Launch = Callable[..., Server]
