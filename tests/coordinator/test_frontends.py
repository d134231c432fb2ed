"""Frontends that fall silent, by lists of events and without a clock."""

from pathlib import Path
from typing import Any

from headrace.coordinator.frontends import KILL_AGAIN_S, START_SILENCE_S
from headrace.coordinator.registry import Registry
from headrace.protocol.common.awake_clock import AwakeClock
from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.protocol.state import FrontendLoad, FrontendState
from headrace.protocol.to_coordinator import (
    ChildExited,
    FrontendHeartbeat,
    FrontendHello,
    FrontendStarted,
    LauncherHello,
)
from headrace.protocol.to_launcher import KillFrontend

NAME = "frontend-0.0"
HELLO = FrontendHello(1, NAME, 7)
BEAT = FrontendHeartbeat(NAME, FrontendLoad(3))


def make_registry(stall_timeout_s: float = 10, **launcher: Any) -> Registry:
    group = GroupConfig(
        name="chat", model="m", model_path=Path("/m"), text_path=Path("/t"), served_names=("m",)
    )
    config = PoolConfig(run_dir=Path("/r"), groups=(group,), stall_timeout_s=stall_timeout_s)
    registry = Registry(config, epoch="e", starts_workers=False)
    registry.on_launcher(LauncherHello(1, (), (NAME,), (), **launcher), 0.0)
    return registry


def test_silent_frontend_is_killed_once_and_again_if_it_does_not_end() -> None:
    registry = make_registry()
    registry.on_frontend_hello(HELLO, 0.0)
    registry.on_frontend_heartbeat(BEAT, 5.0)
    assert registry.tick(14.9) == []
    assert registry.tick(15.1) == [KillFrontend(NAME)]
    assert registry.tick(15.2) == []
    assert registry.tick(15.2 + KILL_AGAIN_S) == [KillFrontend(NAME)]
    assert NAME in registry.frontend_ids()  # its requests are to be aborted when it ends
    registry.on_exit(ChildExited(NAME, "frontend", -9), 18.0)
    assert registry.tick(30.0) == []


def test_frontend_that_is_busy_is_borne_however_short_the_timeout() -> None:
    registry = make_registry(stall_timeout_s=0.1)
    registry.on_frontend_hello(HELLO, 0.0)
    assert registry.tick(2.9) == []
    assert registry.tick(3.1) == [KillFrontend(NAME)]


def test_frontend_that_starts_has_longer_and_is_not_said_to_be_there() -> None:
    registry = make_registry()
    registry.on_frontend_started(FrontendStarted("frontend-1.0"), 10.0)
    registry.on_frontend_hello(HELLO, 10.0)
    assert [each.frontend_id for each in registry.state().frontends] == [NAME]
    assert registry.tick(12.0) == []
    registry.on_exit(ChildExited(NAME, "frontend", 0), 13.0)
    assert registry.tick(10.0 + START_SILENCE_S) == []
    assert registry.tick(10.1 + START_SILENCE_S) == [KillFrontend("frontend-1.0")]


def test_frontend_that_is_frozen_when_the_coordinator_dies_is_killed_as_any() -> None:
    served = FrontendState(NAME, 7, FrontendLoad(1))
    registry = make_registry(published_frontends=(served,))
    assert registry.state().frontends == (served,)
    assert not registry.knows(NAME)  # so that it is asked, should it speak
    assert registry.tick(10.1) == [KillFrontend(NAME)]


def test_pauses_of_the_coordinator_itself_are_nobodys_silence() -> None:
    now = 0.0
    clock = AwakeClock(1.0, lambda: now)
    registry = make_registry()
    registry.on_frontend_hello(HELLO, clock.now())
    for _ in range(10):
        now += 60.0  # it was stopped, and what came meanwhile has not been read
        assert registry.tick(clock.now()) == []
        now += 0.9  # one that is slow is not stopped: this counts
        assert registry.tick(clock.now()) == []
    for _ in range(2):
        now += 0.9
        orders = registry.tick(clock.now())
    assert orders == [KillFrontend(NAME)]
