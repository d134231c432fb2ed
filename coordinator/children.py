"""The launcher's child processes: start, watch, stop."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Child:
    process_id: str
    role: str
    process: Process


# Told of each child that has ended, with its exit code (negative: the signal that killed it).
OnExit = Callable[[Child, int], Awaitable[None]]


class Children:
    """Processes by id. Each is a session of its own, so that a terminal's Ctrl-C reaches only
    the launcher, which then stops them in order."""

    def __init__(self, on_exit: OnExit) -> None:
        self._on_exit = on_exit
        self._children: dict[str, Child] = {}
        self._starting: dict[str, str] = {}  # role by id
        self._watchers: set[asyncio.Task[None]] = set()

    def ids(self, role: str) -> tuple[str, ...]:
        """Of those that live, and of those that are being started just now."""
        roles = self._starting | {child.process_id: child.role for child in self._children.values()}
        return tuple(process_id for process_id, has in roles.items() if has == role)

    async def start(
        self,
        process_id: str,
        role: str,
        module: str,
        arguments: Sequence[str],
        environment: dict[str, str],
        inherited_fds: Sequence[int] = (),
    ) -> None:
        """Run a Python module as a child."""
        self._starting[process_id] = role
        try:
            process = await self._spawn(module, arguments, environment, inherited_fds)
        finally:
            del self._starting[process_id]
        child = Child(process_id, role, process)
        self._children[process_id] = child
        watcher = asyncio.create_task(self._watch(child))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    async def _spawn(
        self,
        module: str,
        arguments: Sequence[str],
        environment: dict[str, str],
        inherited_fds: Sequence[int],
    ) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            # -P: what lies in the current directory (a downloaded model, say) is not to be run.
            *("-P", "-m", module, *arguments, "--parent-pid", str(os.getpid())),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=inherited_fds,
            env={**os.environ, **environment},
            start_new_session=True,
        )

    def kill(self, process_id: str) -> bool:
        """End a child at once; false when there is none of that id."""
        child = self._children.get(process_id)
        if child is None:
            return False
        _send(child, signal.SIGKILL)
        return True

    def signal(self, process_id: str, number: signal.Signals) -> bool:
        """Send a signal; false when there is none of that id. A stopped process goes on to hear
        it."""
        child = self._children.get(process_id)
        if child is None:
            return False
        _send(child, number)
        _send(child, signal.SIGCONT)
        return True

    async def stop(self, roles: Iterable[str], timeout_s: float) -> None:
        """SIGTERM, and SIGKILL for those that are still there after the timeout."""
        chosen = [child for child in self._children.values() if child.role in set(roles)]
        for child in chosen:
            # A stopped process would take no notice of SIGTERM.
            _send(child, signal.SIGTERM)
            _send(child, signal.SIGCONT)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(child.process.wait() for child in chosen))
        except TimeoutError:
            late = [child for child in chosen if child.process.returncode is None]
            for child in late:
                log.warning("%s did not stop within %.0f s: killed", child.process_id, timeout_s)
                _send(child, signal.SIGKILL)
            await asyncio.gather(*(child.process.wait() for child in late))

    def kill_all(self) -> None:
        for child in self._children.values():
            _send(child, signal.SIGKILL)

    async def _watch(self, child: Child) -> None:
        exit_code = await child.process.wait()
        del self._children[child.process_id]
        await self._on_exit(child, exit_code)


def _send(child: Child, number: signal.Signals) -> None:
    if child.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.process.send_signal(number)
