"""The frontend's side of its checkers: a few processes, started when first needed.

A checker that dies or takes too long is killed, and the next job gets another. Waiting is done in
threads, each with a checker of its own (which dies with its thread, and so with the frontend).
"""

import asyncio
import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from headrace.frontend.structured.constraint import Constraint

log = logging.getLogger(__name__)

CHECKERS = 2
DEADLINE_S = 3.0
_LOAD_DEADLINE_S = 60.0  # a tokenizer takes a second; a busy machine takes longer
_MODULE = "headrace.frontend.structured.checker"
_ATTEMPTS = 2  # a checker may die of something else than its job


class CheckFailed(Exception):
    """The constraint cannot be used; its text is fit to be shown to a client."""


class CheckTooExpensive(CheckFailed):
    """Checking it took more time or memory than there is for one."""


class CheckerUnavailable(Exception):
    """No checker can be started for the model."""


class _Gone(Exception):
    """The checker has died."""


class _Late(Exception):
    """The checker has not answered in time."""


class CheckerPool:
    """size: processes at most. deadline_s: of one check."""

    def __init__(self, size: int = CHECKERS, deadline_s: float = DEADLINE_S) -> None:
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="checker")
        self._local = threading.local()
        self._lock = threading.Lock()  # of the two that follow
        self._started: set[_Checker] = set()
        self._is_closed = False
        self._deadline_s = deadline_s

    def close(self) -> None:
        """End all checkers, and their threads; what they are asked meanwhile fails.

        At the exit of the process it would be too late: Python waits for threads before all else,
        and so for whatever is checked then.
        """
        with self._lock:
            self._is_closed = True
            for checker in self._started:
                checker.end()
        self._threads.shutdown(cancel_futures=True)  # none has anything left to wait for
        while self._started:
            self._started.pop().kill()

    async def check(self, model: str, constraint: Constraint) -> str:
        """The grammar of a constraint for a model's text folder. CheckFailed if there is none."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._check, model, constraint)

    def _check(self, model: str, constraint: Constraint) -> str:
        job = {"model": model, "constraint": asdict(constraint)}
        for _ in range(_ATTEMPTS):
            try:
                answer = self._loaded(model).ask(job, self._deadline_s)
            except _Late:
                raise CheckTooExpensive("it takes too long to compile") from None
            except _Gone:
                continue
            if "error" in answer:
                raise CheckFailed(answer["error"])
            text: str = answer["text"]
            return text
        raise CheckTooExpensive("it takes too much memory to compile")

    def _loaded(self, model: str) -> "_Checker":
        """This thread's checker, with the model's tokenizer. CheckerUnavailable if that fails."""
        for _ in range(_ATTEMPTS):
            checker = self._own()
            with contextlib.suppress(_Gone, _Late):
                checker.load(model)
                return checker
        raise CheckerUnavailable

    def _own(self) -> "_Checker":
        checker: _Checker | None = getattr(self._local, "checker", None)
        if checker is not None and checker.is_alive:
            return checker
        if checker is not None:
            checker.kill()  # it has died by itself: what leads to it is closed
        with self._lock:
            if checker is not None:
                self._started.discard(checker)
            if self._is_closed:
                raise CheckerUnavailable
            checker = self._local.checker = _Checker()
            self._started.add(checker)
        return checker


class _Checker:
    """One process, used by one thread."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE, "--parent-pid", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._loaded: set[str] = set()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def load(self, model: str) -> None:
        if model not in self._loaded:
            self.ask({"load": model}, _LOAD_DEADLINE_S)
            self._loaded.add(model)

    def ask(self, job: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """The answer to a job. _Gone or _Late if there is none; the process has ended then."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            self._replace()
            raise _Gone from error
        line = self._read_line(self._process.stdout.fileno(), time.monotonic() + timeout_s)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _read_line(self, descriptor: int, deadline: float) -> bytes:
        parts = []
        while True:
            poll = select.poll()  # unlike select(), for any number of descriptors
            poll.register(descriptor, select.POLLIN)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                self._replace()
                raise _Late
            parts.append(os.read(descriptor, 1 << 16))
            if not parts[-1]:
                self._replace()
                raise _Gone
            if parts[-1].endswith(b"\n"):
                return b"".join(parts)

    def _replace(self) -> None:
        log.warning("a checker of grammars is ended, and another takes its place")
        self.kill()

    def end(self) -> None:
        """End the process, from any thread; whoever waits for an answer sees that it is gone."""
        self._process.kill()

    def kill(self) -> None:
        """End the process and close what leads to it."""
        self.end()
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        self._process.stdout.close()  # type: ignore[union-attr]
        self._process.wait()
