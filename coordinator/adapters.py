"""LoRA adapters that come and go while requests go on.

No sockets and no clock of its own: messages in, steps for the coordinator out. An adapter that
comes is first added to all workers of its group, and then shown to frontends; whoever asked for it
is told when all of them see it. One that goes takes no new requests, first of all; when no frontend
uses it any more, workers remove it.
"""

import json
import logging
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.coordinator.adapter_list import AdapterList
from headrace.coordinator.calls import ENDED, NO_ANSWER
from headrace.protocol.common.adapters import (
    ADD,
    AWAIT_SHOWN,
    AWAIT_UNUSED,
    LOAD,
    REMOVE,
    UNLOAD,
    ServedAdapter,
)
from headrace.protocol.config import PoolConfig
from headrace.protocol.state import SERVING, PoolState, WorkerState
from headrace.protocol.to_coordinator import PoolCall
from headrace.protocol.to_frontend import (
    CONFLICT,
    FAILED,
    INVALID,
    MISSING,
    TIMEOUT,
    UNFIT,
    PoolResult,
    WorkerAnswer,
)
from headrace.protocol.to_worker import Call

log = logging.getLogger(__name__)

METHODS = frozenset({LOAD, UNLOAD})
# Who makes the coordinator's own calls.
OWN = "coordinator"
# What frontends have to see a change; one that takes longer is frozen, and will be killed.
SEEN_S = 5.0
# What workers have to forget an adapter that nobody uses, which takes no longer than a step.
REMOVED_S = 60.0
# After so long without an answer, frontends are asked again whether an adapter is in use.
UNUSED_S = 3600.0
LATE_S = 10.0
NOT_LOADED = "cannot be loaded: "
BUSY = "is being loaded or unloaded already"
IN_USE = "is still used by requests; it takes no new ones, and is unloaded when they are over"
_REMEMBERED = 64


@dataclass(frozen=True)
class _Caller:
    """Who waits, for the answer to which call, and until when."""

    frontend_id: str
    call_id: str
    ends_at: float


@dataclass(frozen=True)
class Steps:
    """What is to be done, in this order: publish the state, make calls, give answers."""

    publish: bool = False
    calls: tuple[PoolCall, ...] = ()
    answers: tuple[tuple[str, PoolResult], ...] = ()


@dataclass
class _Change:
    """An adapter that comes, or goes. method: of the call whose result is waited for.
    replaced: what it takes the place of. callers: who is to be told of the end. answers: of the
    workers that have added it."""

    adapter: ServedAdapter
    is_loading: bool
    callers: list[_Caller] = field(default_factory=list)
    replaced: ServedAdapter | None = None
    method: str = ""
    answers: tuple[WorkerAnswer, ...] = ()


class Adapters:
    """The adapters of all groups."""

    def __init__(self, config: PoolConfig) -> None:
        self._list = AdapterList(config.run_dir)
        self._takes = {group.name: group.engine.enable_lora for group in config.groups}
        self._models = {name for group in config.groups for name in group.served_names}
        self._changes: dict[str, _Change] = {}  # by the id of the call that is waited for
        self._calls = 0
        self._known: set[str] = set()  # workers that have what they are to have
        self._unloaded: dict[str, None] = {}  # ids of the last calls that have unloaded something

    def shown_in(self, state: PoolState) -> PoolState:
        """The pool's state with the adapters in it."""
        groups = tuple(
            replace(group, adapters=self._list.states(group.name)) for group in state.groups
        )
        return replace(state, groups=groups)

    def resume(self) -> Steps:
        """Go on with what a coordinator before this one has begun."""
        return Steps(calls=tuple(self._await_unused(each) for each in self._list.leaving()))

    def on_call(self, call: PoolCall, now: float) -> Steps:
        """An operator wants an adapter loaded or unloaded."""
        arguments = json.loads(call.arguments)
        if any(call.call_id == each.call_id for c in self._changes.values() for each in c.callers):
            return Steps()  # it is repeated, as a coordinator may have lost it: this one has not
        caller = _Caller(call.frontend_id, call.call_id, now + call.timeout_s)
        if call.method == UNLOAD:
            return self._on_unload(arguments["name"], call, caller)
        wanted = ServedAdapter(
            group=call.group,
            name=arguments["name"],
            adapter_id=arguments["adapter_id"],
            root=arguments["root"],
            call_id=call.call_id,
        )
        return self._on_load(wanted, bool(arguments["in_place"]), call.timeout_s, caller)

    def tick(self, now: float) -> Steps:
        """Time has passed: who has waited for long enough until an adapter was in use no more."""
        late: list[_Caller] = []
        for change in self._changes.values():
            if change.method == AWAIT_UNUSED:
                late += [each for each in change.callers if now >= each.ends_at]
                change.callers = [each for each in change.callers if now < each.ends_at]
        return Steps(answers=tuple(_answer(caller, IN_USE, TIMEOUT) for caller in late))

    def on_hello(self, worker: WorkerState, present: Collection[str]) -> list[tuple[str, Call]]:
        """A worker has greeted. The first time that it can serve, it is told what is not as it is
        to be: it has the adapters that were served when it began to start, or those that a
        coordinator before this one was about to add or to remove. present: ids of all workers."""
        self._known &= set(present)
        if worker.state not in SERVING or worker.worker_id in self._known:
            return []
        self._known.add(worker.worker_id)
        changes = self._changes.values()
        known = [*self._list.of_group(worker.group), *(c.adapter for c in changes if c.is_loading)]
        removed = {each.adapter.adapter_id for each in changes if each.method == REMOVE}
        wanted = {each.adapter_id for each in known if each.group == worker.group} - removed
        has = set(worker.adapters)
        return [
            (worker.worker_id, Call(OWN, method, _arguments(adapter_id), False))
            for method, ids in ((ADD, wanted - has), (REMOVE, has - wanted))
            for adapter_id in sorted(ids)
        ]

    def on_result(self, result: PoolResult) -> Steps:
        """What has come of a call of its own."""
        change = self._changes.pop(result.call_id, None)
        if change is None:
            return Steps()
        follow = {
            ADD: self._on_added,
            AWAIT_SHOWN: self._on_shown,
            AWAIT_UNUSED: self._on_unused,
            REMOVE: self._on_removed,
        }
        return follow[change.method](change, result)

    # One comes

    def _on_load(
        self, wanted: ServedAdapter, in_place: bool, timeout_s: float, caller: _Caller
    ) -> Steps:
        served = self._list.named(wanted.name)
        if served is not None and served.call_id == wanted.call_id:
            # Whoever did it has not lived to say so, nor perhaps to have all frontends see it.
            shown = _Change(served, True, [caller])
            return Steps(publish=True, calls=(self._call(shown, AWAIT_SHOWN, SEEN_S),))
        refusal = self._why_not_load(wanted, served, in_place)
        if refusal is not None:
            self._list.remove(wanted)
            return Steps(answers=(_answer(caller, *refusal),))
        log.info("adapter %s is loaded for %s", wanted.name, wanted.group)
        change = _Change(wanted, True, [caller], replaced=served)
        return Steps(calls=(self._call(change, ADD, timeout_s),))

    def _why_not_load(
        self, wanted: ServedAdapter, served: ServedAdapter | None, in_place: bool
    ) -> tuple[str, str] | None:
        if not self._takes[wanted.group]:
            return "cannot be loaded: the model was started without --enable-lora", INVALID
        is_other_model = served is not None and served.group != wanted.group
        if wanted.name in self._models or is_other_model:
            return "has the name of a model", INVALID
        if self._coming(wanted.name):
            return BUSY, CONFLICT
        if served is not None and not in_place:
            return "has already been loaded", INVALID
        return None

    def _on_added(self, change: _Change, result: PoolResult) -> Steps:
        """All workers have answered: if one cannot have it, none is to."""
        refusal = _why_not_added(result)
        if refusal is not None:
            log.error("adapter %s is not loaded: %s", change.adapter.name, refusal[0])
            answers = tuple(_answer(caller, *refusal) for caller in change.callers)
            undo = self._call(_Change(change.adapter, False), REMOVE, REMOVED_S)
            return Steps(calls=(undo,), answers=answers)
        change.answers = result.answers
        if change.replaced is None:
            self._list.put(change.adapter)
        else:
            self._list.replace(change.replaced, change.adapter)
        return Steps(publish=True, calls=(self._call(change, AWAIT_SHOWN, SEEN_S),))

    def _on_shown(self, change: _Change, result: PoolResult) -> Steps:
        calls = () if change.replaced is None else (self._await_unused(change.replaced),)
        return Steps(calls=calls, answers=_done(change.callers, change.answers))

    # One goes

    def _on_unload(self, name: str, call: PoolCall, caller: _Caller) -> Steps:
        if call.call_id in self._unloaded:
            return Steps(answers=(_answer(caller),))
        served = self._list.named(name) or self._list.leaving_named(name)
        if served is None or (call.group and served.group != call.group):
            is_coming = self._coming(name)
            told = (BUSY, CONFLICT) if is_coming else ("cannot be found", MISSING)
            return Steps(answers=(_answer(caller, *told),))
        if self._coming(name):
            return Steps(answers=(_answer(caller, BUSY, CONFLICT),))
        going = (each for each in self._changes.values() if each.adapter == served)
        change = next(going, None)
        if change is not None:
            change.callers.append(caller)
            return Steps()
        log.info("adapter %s is unloaded from %s", served.name, served.group)
        leaving = served.model_copy(update={"is_leaving": True})
        self._list.put(leaving)
        return Steps(publish=True, calls=(self._await_unused(leaving, [caller]),))

    def _await_unused(
        self, adapter: ServedAdapter, callers: list[_Caller] | None = None
    ) -> PoolCall:
        return self._call(_Change(adapter, False, callers or []), AWAIT_UNUSED, UNUSED_S)

    def _on_unused(self, change: _Change, result: PoolResult) -> Steps:
        """The frontends have said whether they use it; of one that has died, nothing is left."""
        uses = (json.loads(each.value or "true") is False for each in result.answers)
        if any(uses) or any(each.error == NO_ANSWER for each in result.answers):
            return Steps(calls=(self._await_unused(change.adapter, change.callers),))
        return Steps(calls=(self._call(change, REMOVE, REMOVED_S),))

    def _on_removed(self, change: _Change, result: PoolResult) -> Steps:
        for each in result.answers:
            if each.error:
                log.warning("%s may keep an adapter in memory: %s", each.worker_id, each.error)
        # Last of all: what a coordinator has not brought to an end, its successor does again.
        self._list.remove(change.adapter)
        self._unloaded |= {caller.call_id: None for caller in change.callers}
        for call_id in list(self._unloaded)[:-_REMEMBERED]:
            del self._unloaded[call_id]
        return Steps(publish=True, answers=_done(change.callers, result.answers))

    def _coming(self, name: str) -> bool:
        """Whether one is being loaded under a name."""
        return any(each.is_loading and each.adapter.name == name for each in self._changes.values())

    def _call(self, change: _Change, method: str, timeout_s: float) -> PoolCall:
        """The next call of a change, whose result is waited for."""
        self._calls += 1
        change.method = method
        call_id = f"{OWN}-adapters-{self._calls}"
        self._changes[call_id] = change
        adapter = change.adapter
        arguments = _arguments(
            adapter.adapter_id, group=adapter.group, name=adapter.name, timeout_s=timeout_s
        )
        if method == AWAIT_UNUSED:
            timeout_s += LATE_S  # frontends are to say themselves that it is over
        return PoolCall(call_id, OWN, method, arguments, adapter.group, "", timeout_s)


def _arguments(adapter_id: str, **others: Any) -> str:
    return json.dumps({"adapter_id": adapter_id, **others})


def _why_not_added(result: PoolResult) -> tuple[str, str] | None:
    """What is wrong with an adapter (workers say so in their value), or why workers have failed."""
    if result.error:
        return f"{NOT_LOADED}{result.error}", result.kind
    for each in result.answers:
        refusal = json.loads(each.value or "null")
        if refusal is not None:
            return f"{NOT_LOADED}{refusal}", UNFIT
    # A worker that has ended is followed by one that gets what is served by then.
    errors = [each.error for each in result.answers if each.error and each.error != ENDED]
    if errors:
        return f"{NOT_LOADED}{errors[0]}", TIMEOUT if errors[0] == NO_ANSWER else FAILED
    if all(each.error for each in result.answers):
        return "has not been loaded: the workers ended meanwhile", FAILED
    return None


def _done(
    callers: list[_Caller], answers: tuple[WorkerAnswer, ...]
) -> tuple[tuple[str, PoolResult], ...]:
    """It is done, and by whom."""
    return tuple((each.frontend_id, PoolResult(each.call_id, answers, "", "")) for each in callers)


def _answer(caller: _Caller, error: str = "", kind: str = "") -> tuple[str, PoolResult]:
    return caller.frontend_id, PoolResult(caller.call_id, (), error, kind)
