"""The order of a rolling restart, with processes that are only names."""

import asyncio
from collections.abc import Callable, Iterable

import pytest

from headrace.coordinator.registry import IDLE
from headrace.launcher import rolling
from headrace.launcher.rolling import Roll, RollingFailed, RollingHooks
from headrace.protocol.common.process import EX_CONFIG
from headrace.protocol.state import (
    READY,
    STARTING,
    FrontendLoad,
    FrontendState,
    GroupState,
    PoolState,
    ReloadState,
    WorkerState,
    WorkerStatus,
)


class Host:
    """Processes that do as they are told, unless they are among the `deaf` or the `broken`."""

    def __init__(self, *process_ids: str) -> None:
        self.alive = set(process_ids)
        self.starting: set[str] = set()
        self.deaf: set[str] = set()
        self.broken: set[str] = set()
        self.told: list[str] = []
        self.fewest_workers = self.wanted = len(self._workers())
        self.problem = ""
        self.reports: list[ReloadState] = []
        self.why_not_beside = "no room"
        self.on_report: Callable[[ReloadState], None] = lambda _: None

    def hooks(self) -> RollingHooks:
        return RollingHooks(
            self.renew,
            self.alive.__contains__,
            self.state,
            lambda: self._workers(),
            self.report,
            self.room,
            self.drain,
            self.kill,
            self.replace,
            self.retire,
        )

    async def report(self, reload: ReloadState) -> None:
        self.reports.append(reload)
        self.on_report(reload)

    async def room(self, worker_id: str) -> str:
        return self.why_not_beside

    def start_beside(self, reload: ReloadState) -> None:
        """As the coordinator does."""
        if reload.phase == "starting" and reload.old and _next(reload.old) not in self.alive:
            self.alive.add(_next(reload.old))
            self.starting.add(_next(reload.old))
            loop = asyncio.get_running_loop()
            loop.call_later(0.01, self.starting.discard, _next(reload.old))

    async def renew(self) -> None:
        self.told.append("renew")

    def state(self) -> PoolState:
        workers = tuple(self._worker(each) for each in self._workers())
        frontends = tuple(
            FrontendState(each, 1, FrontendLoad(0)) for each in self.alive if "frontend" in each
        )
        return PoolState(
            "e", 1, (GroupState("chat", self.wanted, self.problem),), workers, frontends
        )

    def drain(self, worker_id: str) -> None:
        self.told.append(f"drain {worker_id}")
        if worker_id not in self.deaf:
            self._succeed(worker_id)

    def kill(self, worker_id: str) -> None:
        if worker_id:
            self.told.append(f"kill {worker_id}")
            self._succeed(worker_id)

    async def replace(self, frontend_id: str) -> str:
        self.told.append(f"replace {frontend_id}")
        if _next(frontend_id) not in self.broken:
            self.alive.add(_next(frontend_id))
        return _next(frontend_id)

    def retire(self, frontend_id: str) -> None:
        self.told.append(f"retire {frontend_id}")
        self.alive.remove(frontend_id)

    def _succeed(self, worker_id: str) -> None:
        self.alive.remove(worker_id)
        if _next(worker_id) in self.alive:
            return
        if _next(worker_id) in self.broken:
            self.problem = "3 in a row have failed"
            return
        self.alive.add(_next(worker_id))
        self.starting.add(_next(worker_id))
        self.fewest_workers = min(self.fewest_workers, len(self._workers()) - len(self.starting))
        loop = asyncio.get_running_loop()
        loop.call_later(0.01, self.starting.discard, _next(worker_id))

    def _workers(self) -> list[str]:
        return [each for each in self.alive if "chat" in each]

    def _worker(self, name: str) -> WorkerState:
        state: WorkerStatus = STARTING if name in self.starting else READY
        return WorkerState(name, "chat", 1, state, "", IDLE)


def _next(process_id: str) -> str:
    slot, _, start = process_id.rpartition(".")
    return f"{slot}.{int(start) + 1}"


async def roll(
    workers: Iterable[str],
    frontends: Iterable[str],
    hooks: RollingHooks,
    drain_s: float,
    start_s: float,
) -> None:
    await Roll(hooks, 1, drain_s, start_s).run(workers, frontends)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rolling, "POLL_S", 0.001)
    monkeypatch.setattr(rolling, "REPORT_S", 0.01)
    monkeypatch.setattr(rolling, "LATE_S", 0.05)
    monkeypatch.setattr(rolling, "FRONTEND_START_S", 0.05)
    monkeypatch.setattr(rolling, "WHOLE_S", 0.05)


WORKERS, FRONTENDS = ("chat-0.0", "chat-1.4"), ("frontend-0.0", "frontend-1.0")


async def test_one_is_replaced_when_the_one_before_it_is_there_again() -> None:
    host = Host(*WORKERS, *FRONTENDS)
    await roll(WORKERS, FRONTENDS, host.hooks(), 0.05, 1.0)
    assert host.alive == {"chat-0.1", "chat-1.5", "frontend-0.1", "frontend-1.1"}
    assert host.fewest_workers == 1
    assert host.told == [
        "renew",
        "drain chat-0.0",
        "drain chat-1.4",
        "replace frontend-0.0",
        "retire frontend-0.0",
        "replace frontend-1.0",
        "retire frontend-1.0",
    ]


async def test_who_has_ended_meanwhile_is_left_out() -> None:
    host = Host("chat-1.4", "frontend-1.0")
    await roll(WORKERS, FRONTENDS, host.hooks(), 0.05, 1.0)
    assert host.told == ["renew", "drain chat-1.4", "replace frontend-1.0", "retire frontend-1.0"]


async def test_no_worker_is_taken_from_a_group_that_lacks_some() -> None:
    host = Host(*WORKERS, *FRONTENDS)
    host.starting = {"chat-1.4"}
    with pytest.raises(RollingFailed, match="lacks"):
        await roll(WORKERS, FRONTENDS, host.hooks(), 0.05, 1.0)
    assert host.told == ["renew"]


async def test_worker_that_does_not_end_is_killed() -> None:
    host = Host(*WORKERS)
    host.deaf = {"chat-0.0"}
    await roll(WORKERS, (), host.hooks(), 0.01, 1.0)
    assert host.told == ["renew", "drain chat-0.0", "kill chat-0.0", "drain chat-1.4"]


async def test_worker_whose_successor_fails_is_the_last() -> None:
    host = Host(*WORKERS, *FRONTENDS)
    host.broken = {"chat-0.1"}
    with pytest.raises(RollingFailed, match=r"chat-0\.0"):
        await roll(WORKERS, FRONTENDS, host.hooks(), 0.05, 5.0)
    assert host.alive == {"chat-1.4", *FRONTENDS}


async def test_frontend_whose_successor_does_not_come_stays() -> None:
    host = Host(*FRONTENDS)
    host.broken = {"frontend-0.1"}
    with pytest.raises(RollingFailed, match=r"frontend-0\.0"):
        await roll((), FRONTENDS, host.hooks(), 0.05, 1.0)
    assert host.alive == set(FRONTENDS)


async def test_successor_is_ready_before_the_old_worker_drains() -> None:
    host = Host(*WORKERS)
    host.why_not_beside, host.on_report = "", host.start_beside
    await roll(WORKERS, (), host.hooks(), 0.05, 1.0)
    assert host.told == ["renew", "drain chat-0.0", "drain chat-1.4"]
    assert host.alive == {"chat-0.1", "chat-1.5"}
    assert host.fewest_workers == 2
    phases = [(each.phase, each.old, each.new) for each in host.reports]
    assert ("starting", "chat-0.0", "") in phases
    assert ("draining", "chat-0.0", "chat-0.1") in phases
    assert phases[-1] == ("done", "", "")


async def test_without_room_the_reason_is_reported() -> None:
    host = Host("chat-0.0")
    await roll(("chat-0.0",), (), host.hooks(), 0.05, 1.0)
    replacing = [each for each in host.reports if each.phase == "replacing"]
    assert [(each.old, each.reason) for each in replacing] == [("chat-0.0", "no room")]


@pytest.mark.parametrize(
    ("exits", "limit_s"),
    [({"chat-0.1": EX_CONFIG}, 5.0), ({f"chat-0.{n}": 1 for n in (1, 2, 3)}, 5.0), ({}, 0.05)],
    ids=["hopeless", "three times", "late"],
)
async def test_old_worker_is_kept_if_no_successor_comes(
    exits: dict[str, int], limit_s: float
) -> None:
    host = Host(*WORKERS)
    host.why_not_beside = ""
    new = Roll(host.hooks(), 1, 0.05, limit_s)
    new.exits.update(exits)
    async with asyncio.timeout(2):
        with pytest.raises(RollingFailed, match=r"chat-0\.0 is kept"):
            await new.run(WORKERS, FRONTENDS)
    assert host.alive == set(WORKERS)
    assert not any(told.startswith("drain") for told in host.told)


async def test_late_successor_is_killed() -> None:
    host = Host("chat-0.0")
    host.why_not_beside = ""

    def start_successor(_: ReloadState) -> None:
        host.alive.add("chat-0.1")
        host.starting.add("chat-0.1")

    host.on_report = start_successor
    with pytest.raises(RollingFailed):
        await roll(("chat-0.0",), (), host.hooks(), 0.05, 0.05)
    assert host.told == ["renew", "kill chat-0.1"]


async def test_slot_that_the_pool_has_no_more_is_left_out() -> None:
    host = Host(*WORKERS)
    host.why_not_beside, host.on_report = "", host.start_beside

    def scale_down(reload: ReloadState) -> None:
        if reload.old == "chat-1.4":
            host.wanted = 1
        else:
            host.start_beside(reload)

    host.on_report = scale_down
    await roll(WORKERS, (), host.hooks(), 0.05, 1.0)
    assert host.told == ["renew", "drain chat-0.0"]
