"""Admin calls: each has one answerer that handles it, and a result of a known class."""

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.coordinator.assemble import assemble_coordinator
from headrace.frontend.abortable import Abortable
from headrace.frontend.adapters import AdapterUse
from headrace.frontend.admin.frontend_calls import frontend_call_handlers
from headrace.protocol import call_results, calls
from headrace.protocol.calls import (
    AdminCall,
    AnyCall,
    CallTarget,
    CallToCoordinator,
    CallToFrontends,
    CallToWorkers,
    LoadAdapter,
    Ping,
    Scale,
    Sleep,
    check_handled,
)
from headrace.protocol.codec import DecodeError, Message
from headrace.protocol.common.sd_notify import Notifier
from headrace.protocol.config import EngineConfig, GroupConfig, PoolConfig
from headrace.protocol.to_coordinator import CONTROL, CallResult, PoolCall
from headrace.protocol.to_frontend import CONTROL as FRONTEND_CONTROL
from headrace.protocol.to_frontend import FrontendCall
from headrace.protocol.to_worker import CONTROL as WORKER_CONTROL
from headrace.protocol.to_worker import WorkerCall
from headrace.workers.engine.replica_engine import EngineStats
from headrace.workers.process.assemble import assemble_worker
from tests.protocol.test_codec import messages

UNIONS: dict[str, UnionType] = {
    "workers": CallToWorkers,
    "frontends": CallToFrontends,
    "coordinator": CallToCoordinator,
}
CALLS: tuple[type[Any], ...] = get_args(AnyCall)
RESULTS: tuple[type[Any], ...] = get_args(call_results.AnyResult)


def defined(module: Any, base: type[Message]) -> set[type[Message]]:
    """Return the tagged subclasses of a base that a module defines."""
    classes = [each for each in vars(module).values() if isinstance(each, type)]
    return {each for each in classes if issubclass(each, base) and each.__struct_config__.tag}


@pytest.fixture
def config() -> Iterator[PoolConfig]:
    run_dir = Path(tempfile.mkdtemp(dir="/tmp"))  # socket paths must be short
    group = GroupConfig(
        name="chat",
        model="m",
        model_path=Path("/m"),
        text_path=Path("/m"),
        served_names=("chat",),
        engine=EngineConfig(engine="fake"),
    )
    yield PoolConfig(run_dir=run_dir, groups=(group,))
    shutil.rmtree(run_dir)


def test_every_call_is_in_the_union_of_its_answerer_alone() -> None:
    assert defined(calls, AdminCall) == set(CALLS)
    for call in CALLS:
        unions = [name for name, union in UNIONS.items() if call in get_args(union)]
        assert unions == [call.answered_by], call


def test_every_result_is_in_the_union_and_belongs_to_a_call() -> None:
    assert defined(call_results, call_results.Result) == set(RESULTS)
    assert {call.result for call in CALLS} == set(RESULTS)


def test_a_worker_handles_its_calls(config: PoolConfig) -> None:
    worker = assemble_worker("chat-0.0", config.groups[0], config, Notifier(), 1)
    try:
        assert worker.calls.handled == set(get_args(CallToWorkers))
    finally:
        worker.sockets.close()


def test_the_coordinator_handles_its_calls(config: PoolConfig) -> None:
    coordinator = assemble_coordinator(config, Notifier(), None)
    try:
        assert coordinator.calls._router.handled == set(get_args(CallToCoordinator))
    finally:
        coordinator.sockets.close()


def test_a_frontend_handles_its_calls() -> None:
    handlers = frontend_call_handlers(Abortable(), AdapterUse(), lambda: None)
    assert handlers.handled == set(get_args(CallToFrontends))


def test_a_call_without_a_handler_is_named() -> None:
    handled = set(get_args(CallToWorkers)) - {Ping, Sleep}
    with pytest.raises(NotImplementedError, match="Sleep, Ping"):
        check_handled(CallToWorkers, handled)


@pytest.mark.parametrize("kind", CALLS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_call_survives_its_way_to_the_answerer(kind: type[Any], data: st.DataObject) -> None:
    call, target = data.draw(messages(kind)), data.draw(messages(CallTarget))
    message = PoolCall("c", "frontend-0.0", call, target, 1.5)
    assert CONTROL.decode(CONTROL.encode(message)) == message
    if calls.is_for_workers(call):
        to_worker = WorkerCall("c", call)
        assert WORKER_CONTROL.decode(WORKER_CONTROL.encode(to_worker)) == to_worker
    elif calls.is_for_frontends(call):
        to_frontend = FrontendCall("c", call)
        assert FRONTEND_CONTROL.decode(FRONTEND_CONTROL.encode(to_frontend)) == to_frontend


@pytest.mark.parametrize("kind", RESULTS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_result_survives_its_way_back(kind: type[Any], data: st.DataObject) -> None:
    message = CallResult("c", "chat-0.0", data.draw(messages(kind)))
    decoded = CONTROL.decode(CONTROL.encode(message))
    assert decoded == message
    assert isinstance(decoded, CallResult)
    assert type(decoded.value) is kind


@pytest.mark.parametrize("call", [LoadAdapter("a", "1f", "a"), Scale(2, 1.0, 1.0)])
def test_a_call_is_sent_to_nobody_who_does_not_answer_it(call: Any) -> None:
    with pytest.raises(DecodeError):
        WORKER_CONTROL.decode(WORKER_CONTROL.encode(WorkerCall("c", call)))


@pytest.mark.parametrize(
    "call",
    [
        [1, 3],  # no such level
        [1, 1, "Drain"],
        [2, ["weights", "bias"]],
        [3, "abort", 1],
        [9, "memory"],
        [15, ["a", 1]],
        [0],
        [99],
        [],
        "sleep",
        None,
        {"level": 1},
    ],
)
def test_bad_calls_are_refused(call: Any) -> None:
    right = msgpack.packb([11, "c", "frontend-0.0", [1, 1], ["", ""], 1.0])
    assert isinstance(CONTROL.decode(right), PoolCall)
    with pytest.raises(DecodeError):
        CONTROL.decode(msgpack.packb([11, "c", "frontend-0.0", call, ["", ""], 1.0]))


def test_statistics_are_an_engines_under_the_names_that_clients_know() -> None:
    values: list[Any] = [*range(14), (2, 1), (3,)]
    stats = EngineStats(*values)
    assert len(dataclasses.fields(EngineStats)) == 16
    shown = call_results.EngineStatistics(*dataclasses.astuple(stats)).to_json()
    assert list(shown) == [
        "running",
        "waiting",
        "blocks_used",
        "blocks_total",
        "steps",
        "prefix_queried",
        "prefix_hits",
        "preemptions",
        "prompt_tokens",
        "generated_tokens",
        "step_tokens",
        "drafts",
        "draft_tokens",
        "accepted_tokens",
        "accepted_by_position",
        "ended_by_preemptions",
    ]
    assert list(shown.values()) == values


def test_calls_are_frozen() -> None:
    call = Sleep()
    with pytest.raises(AttributeError):
        call.level = 2  # type: ignore[misc]
    assert call.for_worker(True) == msgspec.structs.replace(call, others_are_awake=True)
    assert Ping().for_worker(True) == Ping()


@pytest.mark.parametrize(
    ("result", "value"),
    [
        (call_results.Done(), None),
        (call_results.Pong(), "pong"),
        (call_results.WorkerSleep("asleep"), {"state": "asleep"}),
        (call_results.WorkerPaused(True), {"is_paused": True}),
        (call_results.AdapterAdded(), None),
        (call_results.AdapterAdded("no adapter is there"), "no adapter is there"),
        (call_results.AbortedCount(3), 3),
        (call_results.AbortedNames(("a", "b")), ["a", "b"]),
        (call_results.ConditionMet(False), False),
        (call_results.ScalingState(True), True),
        (call_results.ProfileStopped(None), {"trace": None}),
        (
            call_results.MemoryUse(3, None, 1),
            {"resident_bytes": 3, "weight_bytes": None, "cache_bytes": 1},
        ),
    ],
)
def test_results_as_http_clients_see_them(result: call_results.Result, value: Any) -> None:
    assert result.to_json() == value
