"""The launcher's child processes: start, watch, stop."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from headrace.launcher.adopted import AdoptedProcess, adopt_orphans, reap_orphans
from headrace.protocol.common.process_registry import Role

log = logging.getLogger("headrace.launcher")

# How long ended orphans wait to be reaped while a child is being started.
REAP_DELAY_S = 1.0


@dataclass(frozen=True)
class Child:
    """A running child process."""

    process_id: str
    role: Role
    process: Process | AdoptedProcess


# Called for each child that has ended, with its exit status (negative: the signal that killed it).
OnExit = Callable[[Child, int], Awaitable[None]]


def slot_of(process_id: str) -> str:
    """Return the slot that a process fills: "chat-0" for "chat-0.3".

    The coordinator's id has no number: its slot is "".
    """
    return process_id.rpartition(".")[0]


class Children:
    """The children by process id.

    Each has a session of its own, so that a terminal's Ctrl-C reaches only the launcher, which then
    stops them in order.
    """

    def __init__(self, on_exit: OnExit) -> None:
        self._on_exit = on_exit
        self._children: dict[str, Child] = {}
        self._starting: dict[str, Role] = {}  # role by id
        self._doomed: set[str] = set()  # of those that start: to be killed as soon as they run
        self._adopts = False
        self._watchers: set[asyncio.Task[None]] = set()

    def ids(self, role: Role) -> tuple[str, ...]:
        """Return the ids of the children of a role, those that are being started included."""
        roles = self._starting | {child.process_id: child.role for child in self._children.values()}
        return tuple(process_id for process_id, of_child in roles.items() if of_child == role)

    def pid(self, process_id: str) -> int | None:
        """Return a child's pid; None if no child with that id runs yet."""
        child = self._children.get(process_id)
        return None if child is None else child.process.pid

    async def start(
        self,
        process_id: str,
        role: Role,
        module: str,
        arguments: Sequence[str],
        environment: dict[str, str],
        inherited_fds: Sequence[int] = (),
    ) -> None:
        """Run a Python module as a child."""
        spawning = self.spawn(module, arguments, environment, inherited_fds)
        await self.add(process_id, role, spawning)

    async def add(
        self, process_id: str, role: Role, starting: Awaitable[Process | AdoptedProcess]
    ) -> None:
        """Add the child that `starting` returns, which may take a while."""
        self._starting[process_id] = role
        try:
            process = await starting
        except BaseException:
            self._doomed.discard(process_id)
            raise
        finally:
            del self._starting[process_id]
        child = Child(process_id, role, process)
        self._children[process_id] = child
        watcher = asyncio.create_task(self._watch(child))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        if process_id in self._doomed:
            self._doomed.discard(process_id)
            _send(child, signal.SIGKILL)

    def adopt_orphans(self) -> None:
        """Adopt descendants whose parent ends.

        They are reaped when they end, unless they are added as children.
        """
        if not self._adopts:
            self._adopts = True
            adopt_orphans()
            asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def _reap(self) -> None:
        if self._starting:  # a child that has a pid already may not be known by it yet
            asyncio.get_running_loop().call_later(REAP_DELAY_S, self._reap)
        else:
            reap_orphans([child.process.pid for child in self._children.values()])

    async def spawn(
        self,
        module: str,
        arguments: Sequence[str],
        environment: dict[str, str],
        inherited_fds: Sequence[int],
    ) -> Process:
        """Spawn a process that runs a Python module; the caller must `add` it.

        Raises OSError if the system refuses it.
        """
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                # -P: files in the current directory (a downloaded model, say) must not be imported.
                *("-P", "-m", module, *arguments, "--parent-pid", str(os.getpid())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=inherited_fds,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        except RuntimeError as error:  # asyncio watches it in a thread, which is refused, too
            raise BlockingIOError(errno.EAGAIN, str(error)) from error

    def kill(self, process_id: str) -> bool:
        """Kill a child now, or as soon as it runs; return false if no child has that id."""
        if process_id in self._starting:
            self._doomed.add(process_id)
            return True
        child = self._children.get(process_id)
        if child is None:
            return False
        _send(child, signal.SIGKILL)
        return True

    def signal(self, process_id: str, number: signal.Signals) -> bool:
        """Send a signal to a child; return false if no child has that id.

        A stopped process is continued, so that it handles the signal. A child that is being started
        has nothing to finish: it is killed.
        """
        if process_id in self._starting:
            return self.kill(process_id)
        child = self._children.get(process_id)
        if child is None:
            return False
        _send(child, number)
        _send(child, signal.SIGCONT)
        return True

    async def stop(self, roles: Iterable[Role], timeout_s: float) -> None:
        """Send SIGTERM to the children of some roles, and SIGKILL to the rest after a timeout."""
        chosen = [child for child in self._children.values() if child.role in set(roles)]
        for child in chosen:
            # A stopped process does not handle SIGTERM until it is continued.
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
        """Kill all children now."""
        for child in self._children.values():
            _send(child, signal.SIGKILL)

    async def _watch(self, child: Child) -> None:
        exit_status = await child.process.wait()
        del self._children[child.process_id]
        try:
            await self._on_exit(child, exit_status)
        except Exception:  # the other processes must not suffer for it
            log.exception("the end of %s could not be handled", child.process_id)


def _send(child: Child, number: signal.Signals) -> None:
    """Send a signal to a child that has not been reaped."""
    if child.process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        if isinstance(child.process, AdoptedProcess):
            child.process.send_signal(number)
        else:  # `Process.send_signal` may reap it: its watcher would not learn how it has ended
            os.kill(child.process.pid, number)
