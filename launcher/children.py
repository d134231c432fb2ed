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

from headrace.launcher.adopted import AdoptedProcess, adopt_orphans, reap_orphans

log = logging.getLogger(__name__)

# How long orphans that have ended wait for a child that is being started.
REAP_LATER_S = 1.0


@dataclass(frozen=True)
class Child:
    process_id: str
    role: str
    process: Process | AdoptedProcess


# Told of each child that has ended, with its exit code (negative: the signal that killed it).
OnExit = Callable[[Child, int], Awaitable[None]]


class Children:
    """Processes by id. Each is a session of its own, so that a terminal's Ctrl-C reaches only
    the launcher, which then stops them in order."""

    def __init__(self, on_exit: OnExit) -> None:
        self._on_exit = on_exit
        self._children: dict[str, Child] = {}
        self._starting: dict[str, str] = {}  # role by id
        self._unwanted: set[str] = set()  # of these, who is to be killed as soon as it is there
        self._adopts = False
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
        spawning = self.spawn(module, arguments, environment, inherited_fds)
        await self.add(process_id, role, spawning)

    async def add(
        self, process_id: str, role: str, starting: Awaitable[Process | AdoptedProcess]
    ) -> None:
        """Have a child that comes of `starting`, which may take its time."""
        self._starting[process_id] = role
        try:
            process = await starting
        except BaseException:
            self._unwanted.discard(process_id)
            raise
        finally:
            del self._starting[process_id]
        child = Child(process_id, role, process)
        self._children[process_id] = child
        watcher = asyncio.create_task(self._watch(child))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        if process_id in self._unwanted:
            self._unwanted.discard(process_id)
            _send(child, signal.SIGKILL)

    def adopt_orphans(self) -> None:
        """Have those who lose their parent as children. They are let go of when they end, unless
        they are added."""
        if not self._adopts:
            self._adopts = True
            adopt_orphans()
            asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def _reap(self) -> None:
        if self._starting:  # who has a pid already, but is not known by it
            asyncio.get_running_loop().call_later(REAP_LATER_S, self._reap)
        else:
            reap_orphans([child.process.pid for child in self._children.values()])

    async def spawn(
        self,
        module: str,
        arguments: Sequence[str],
        environment: dict[str, str],
        inherited_fds: Sequence[int],
    ) -> Process:
        """A process that runs a Python module; `add` has to be told of it."""
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
        """End a child at once, or as soon as it is there; false when there is none of that id."""
        if process_id in self._starting:
            self._unwanted.add(process_id)
            return True
        child = self._children.get(process_id)
        if child is None:
            return False
        _send(child, signal.SIGKILL)
        return True

    def signal(self, process_id: str, number: signal.Signals) -> bool:
        """Send a signal; false when there is none of that id. A stopped process goes on to hear
        it, and one that is being started has nothing to finish: it is killed."""
        if process_id in self._starting:
            return self.kill(process_id)
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
