"""Carries a schedule out on a running pool, and knows afterwards who was struck."""

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import dataclass, field

import psutil

from .schedule import Blow, Schedule
from .watch import RegisteredProcess, Watch

_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "continue": signal.SIGCONT}


@dataclass
class Struck:
    """broken_ports: clients' ports of the connections that killed or stopped frontends held.
    worker_losses: when workers were killed or stopped. strikes: all of them, as lines to be read.
    killed_at: when one of a role was killed last. rolled_at: when all were last asked to be
    replaced."""

    broken_ports: set[int] = field(default_factory=set)
    worker_losses: list[float] = field(default_factory=list)
    strikes: list[str] = field(default_factory=list)
    killed_at: dict[str, float] = field(default_factory=dict)
    rolled_at: float = float("-inf")

    def nobody_knows(self, now: float) -> bool:
        """Whether a frontend can have started while there was no coordinator to tell it of
        workers."""
        return all(
            now - self.killed_at.get(role, -1e9) < 10 for role in ("frontend", "coordinator")
        )

    def losses(self, since: float, until: float) -> int:
        """How often a request of that time can have lost its worker; stalls are noticed late."""
        return sum(since - 10.0 <= at <= until for at in self.worker_losses)


async def carry_out(schedule: Schedule, watch: Watch, struck: Struck) -> None:
    begun = time.monotonic()
    for blow in schedule.blows:
        await asyncio.sleep(max(0.0, begun + blow.at_s - time.monotonic()))
        strike(blow, watch, struck)


def strike(blow: Blow, watch: Watch, struck: Struck) -> None:
    """Strike the process that fills the slot now, if one does, even while it restarts."""
    if blow.kind == "roll":
        struck.strikes.append(f"{blow.at_s:6.2f} s roll")
        watch.ask_launcher(signal.SIGHUP)
        struck.rolled_at = time.monotonic()
        return
    victims = [each for each in watch.living(blow.role) if each.place == blow.slot]
    struck.strikes.append(f"{blow.at_s:6.2f} s {blow.kind} {blow.role} {blow.slot}: "
                       f"{[victim.pid for victim in victims] or 'nobody there'}")  # fmt: skip
    for victim in victims:
        # A worker that is frozen while it loads its model may stay for two minutes.
        loading = blow.role == "worker" and victim.pid not in watch.ready
        kind = "kill" if blow.kind == "stop" and loading else blow.kind
        # A process that is stopped may be killed for it.
        if kind == "kill" or (kind == "stop" and blow.role != "worker"):
            struck.killed_at[blow.role] = time.monotonic()
        if blow.role == "frontend" and kind != "continue":
            struck.broken_ports |= _held(victim)
        if blow.role == "worker" and kind != "continue":
            struck.worker_losses.append(time.monotonic())
        _signal(victim, _SIGNALS[kind])


def _held(frontend: RegisteredProcess) -> set[int]:
    """The clients' ports of its connections. It is stopped before, so that it gets no further."""
    _signal(frontend, signal.SIGSTOP)
    with contextlib.suppress(psutil.NoSuchProcess):
        connections = psutil.Process(frontend.pid).net_connections("tcp")
        return {each.raddr.port for each in connections if each.raddr}
    return set()


def _signal(member: RegisteredProcess, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(member.pid, number)
