"""Loads and unloads LoRA adapters while requests run.

No sockets and no clock of its own: messages in, actions out. A new adapter is first added to all
workers of its group and then published; its caller is answered when all frontends see it. An
adapter that is unloaded first takes no new requests; when no frontend uses it any more, workers
remove it.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from headrace.coordinator.actions import Actions, Answer, WorkerMessage
from headrace.coordinator.adapter_list import AdapterList
from headrace.coordinator.call_router import ENDED, NO_ANSWER, OWN, own_call_id
from headrace.protocol.call_results import AdapterAdded, ConditionMet
from headrace.protocol.calls import (
    ABSENT,
    CONFLICT,
    FAILED,
    INVALID,
    MISSING,
    TIMEOUT,
    UNFIT,
    AddAdapter,
    AdminCall,
    AnyCall,
    AwaitAdapterShown,
    AwaitAdapterUnused,
    CallTarget,
    ErrorKind,
    LoadAdapter,
    RemoveAdapter,
    UnloadAdapter,
)
from headrace.protocol.common.adapters import ServedAdapter
from headrace.protocol.config import PoolConfig
from headrace.protocol.state import SERVING, PoolState, WorkerState
from headrace.protocol.to_coordinator import PoolCall
from headrace.protocol.to_frontend import CallAnswer, PoolResult
from headrace.protocol.to_worker import WorkerCall

log = logging.getLogger("headrace.coordinator")

# How long frontends have to see a change; one that takes longer is frozen, and will be killed.
SEEN_S = 5.0
# How long workers have to remove an adapter that no request uses, which takes one step at most.
REMOVED_S = 60.0
# After so long without an answer, frontends are asked again whether an adapter is used.
UNUSED_S = 3600.0
LATE_S = 10.0
NOT_LOADED = "cannot be loaded: "
BUSY = "is being loaded or unloaded already"
IN_USE = "is still used by requests; it takes no new ones, and is unloaded when they are over"
_REMEMBERED = 64


@dataclass(frozen=True)
class _Caller:
    """A frontend that waits for the answer to a call, and until when."""

    frontend_id: str
    call_id: str
    ends_at: float


@dataclass
class _Change:
    """An adapter that is being loaded or unloaded.

    callers: answered at the end. replaced: the adapter whose name it takes over.
    awaited: the class of the call whose result is waited for.
    answers: of the workers that have added it.
    """

    adapter: ServedAdapter
    is_loading: bool
    callers: list[_Caller] = field(default_factory=list)
    replaced: ServedAdapter | None = None
    awaited: type[AdminCall] | None = None
    answers: tuple[CallAnswer, ...] = ()


class AdapterManager:
    """Loads and unloads the adapters of all groups."""

    def __init__(self, config: PoolConfig) -> None:
        self._list = AdapterList(config.run_dir)
        self._lora_enabled = {group.name: group.engine.enable_lora for group in config.groups}
        self._models = {name for group in config.groups for name in group.served_names}
        self._changes: dict[str, _Change] = {}  # by the id of the awaited call
        self._known: set[str] = set()  # workers that have the right adapters
        self._continue: dict[type[AdminCall], Callable[[_Change, PoolResult], Actions]] = {
            AddAdapter: self._on_added,
            AwaitAdapterShown: self._on_shown,
            AwaitAdapterUnused: self._on_unused,
            RemoveAdapter: self._on_removed,
        }
        self._unloaded: dict[str, None] = {}  # ids of the last finished UnloadAdapter calls

    def shown_in(self, state: PoolState) -> PoolState:
        """Return the pool state with the adapters in it."""
        groups = tuple(
            replace(group, adapters=self._list.states(group.name)) for group in state.groups
        )
        return replace(state, groups=groups)

    def resume(self) -> Actions:
        """Continue what a previous coordinator has begun."""
        return Actions(calls=tuple(self._await_unused(each) for each in self._list.draining()))

    def on_load(self, call: LoadAdapter, message: PoolCall, now: float) -> Actions:
        """Load an adapter for all workers of a group."""
        if self._is_known(message):
            return Actions()
        group = message.target.group
        adapter = ServedAdapter(
            group=group,
            name=call.name,
            adapter_id=call.adapter_id,
            root=call.root,
            call_id=message.call_id,
        )
        return self._load(adapter, call.in_place, message.timeout_s, _caller(message, now))

    def on_unload(self, call: UnloadAdapter, message: PoolCall, now: float) -> Actions:
        """Unload an adapter from all workers of its group."""
        if self._is_known(message):
            return Actions()
        return self._unload(call.name, message, _caller(message, now))

    def _is_known(self, message: PoolCall) -> bool:
        """Return whether a call is in progress already.

        Frontends repeat calls, because a coordinator that died may have lost them.
        """
        changes = self._changes.values()
        return any(message.call_id == each.call_id for c in changes for each in c.callers)

    def tick(self, now: float) -> Actions:
        """Answer callers whose time is over while requests still use the adapter."""
        late: list[_Caller] = []
        for change in self._changes.values():
            if change.awaited is AwaitAdapterUnused:
                late += [each for each in change.callers if now >= each.ends_at]
                change.callers = [each for each in change.callers if now < each.ends_at]
        return Actions(answers=tuple(_answer(caller, IN_USE, TIMEOUT) for caller in late))

    def on_hello(self, worker: WorkerState, present: Collection[str]) -> list[WorkerMessage]:
        """Return calls that correct a worker's adapters when it can serve for the first time.

        It has those that were served when it began to start, or that a previous coordinator was
        about to add or remove. present: ids of all workers.
        """
        self._known &= set(present)
        if worker.state not in SERVING or worker.worker_id in self._known:
            return []
        self._known.add(worker.worker_id)
        changes = self._changes.values()
        known = [*self._list.of_group(worker.group), *(c.adapter for c in changes if c.is_loading)]
        removed = {each.adapter.adapter_id for each in changes if each.awaited is RemoveAdapter}
        needed = {each.adapter_id for each in known if each.group == worker.group} - removed
        has = set(worker.adapters)
        calls: list[AddAdapter | RemoveAdapter] = []
        calls += map(AddAdapter, sorted(needed - has))
        calls += map(RemoveAdapter, sorted(has - needed))
        return [(worker.worker_id, WorkerCall(own_call_id(), call)) for call in calls]

    def on_result(self, result: PoolResult) -> Actions:
        """Continue a change with the result of the coordinator's own call."""
        change = self._changes.pop(result.call_id, None)
        if change is None:
            return Actions()
        assert change.awaited is not None
        return self._continue[change.awaited](change, result)

    # Loading

    def _load(
        self, adapter: ServedAdapter, in_place: bool, timeout_s: float, caller: _Caller
    ) -> Actions:
        served = self._list.by_name(adapter.name)
        if served is not None and served.call_id == adapter.call_id:
            # A previous coordinator did it, but may have died before all frontends saw it.
            shown = _Change(served, True, [caller])
            return Actions(publish=True, calls=(self._await_shown(shown),))
        rejection = self._rejection_of(adapter, served, in_place)
        if rejection is not None:
            self._list.remove(adapter)
            return Actions(answers=(_answer(caller, *rejection),))
        log.info("loading adapter %s for group %s", adapter.name, adapter.group)
        change = _Change(adapter, True, [caller], replaced=served)
        return Actions(calls=(self._call(change, AddAdapter(adapter.adapter_id), timeout_s),))

    def _rejection_of(
        self, adapter: ServedAdapter, served: ServedAdapter | None, in_place: bool
    ) -> tuple[str, ErrorKind] | None:
        if not self._lora_enabled[adapter.group]:
            return "cannot be loaded: the model was started without --enable-lora", INVALID
        is_other_model = served is not None and served.group != adapter.group
        if adapter.name in self._models or is_other_model:
            return "has the name of a model", INVALID
        if self._is_loading(adapter.name):
            return BUSY, CONFLICT
        if served is not None and not in_place:
            return "has already been loaded", INVALID
        return None

    def _on_added(self, change: _Change, result: PoolResult) -> Actions:
        """Publish the adapter if all workers have added it, else remove it from all."""
        rejection = _why_not_added(result)
        if rejection is not None:
            log.error("cannot load adapter %s: %s", change.adapter.name, rejection[0])
            answers = tuple(_answer(caller, *rejection) for caller in change.callers)
            undo = self._remove(_Change(change.adapter, False))
            return Actions(calls=(undo,), answers=answers)
        change.answers = result.answers
        if change.replaced is None:
            self._list.put(change.adapter)
        else:
            self._list.replace(change.replaced, change.adapter)
        return Actions(publish=True, calls=(self._await_shown(change),))

    def _on_shown(self, change: _Change, result: PoolResult) -> Actions:
        calls = () if change.replaced is None else (self._await_unused(change.replaced),)
        return Actions(calls=calls, answers=_done(change.callers, change.answers))

    # Unloading

    def _unload(self, name: str, message: PoolCall, caller: _Caller) -> Actions:
        if message.call_id in self._unloaded:
            return Actions(answers=(_answer(caller),))
        served = self._list.by_name(name) or self._list.draining_by_name(name)
        if served is None or (message.target.group and served.group != message.target.group):
            is_loading = self._is_loading(name)
            if is_loading:
                return Actions(answers=(_answer(caller, BUSY, CONFLICT),))
            return Actions(answers=(_answer(caller, "cannot be found", MISSING),))
        if self._is_loading(name):
            return Actions(answers=(_answer(caller, BUSY, CONFLICT),))
        changes = (each for each in self._changes.values() if each.adapter == served)
        change = next(changes, None)
        if change is not None:
            change.callers.append(caller)
            return Actions()
        log.info("unloading adapter %s of group %s", served.name, served.group)
        draining = served.model_copy(update={"is_draining": True})
        self._list.put(draining)
        return Actions(publish=True, calls=(self._await_unused(draining, [caller]),))

    def _await_unused(
        self, adapter: ServedAdapter, callers: list[_Caller] | None = None
    ) -> PoolCall:
        call = AwaitAdapterUnused(adapter.adapter_id, UNUSED_S)
        # Frontends must be able to say themselves that the time is over.
        return self._call(_Change(adapter, False, callers or []), call, UNUSED_S + LATE_S)

    def _await_shown(self, change: _Change) -> PoolCall:
        return self._call(change, AwaitAdapterShown(change.adapter.adapter_id, SEEN_S), SEEN_S)

    def _remove(self, change: _Change) -> PoolCall:
        return self._call(change, RemoveAdapter(change.adapter.adapter_id), REMOVED_S)

    def _on_unused(self, change: _Change, result: PoolResult) -> Actions:
        """Remove the adapter if no frontend uses it, else wait again; a dead one uses nothing."""
        values = (each.value for each in result.answers)
        uses = (isinstance(each, ConditionMet) and not each.is_met for each in values)
        if any(uses) or any(each.error == NO_ANSWER for each in result.answers):
            return Actions(calls=(self._await_unused(change.adapter, change.callers),))
        return Actions(calls=(self._remove(change),))

    def _on_removed(self, change: _Change, result: PoolResult) -> Actions:
        for each in result.answers:
            if each.error:
                log.warning(
                    "%s may still have an adapter in memory: %s", each.process_id, each.error
                )
        # Last of all: a successor repeats a change that a coordinator has not finished.
        self._list.remove(change.adapter)
        self._unloaded |= {caller.call_id: None for caller in change.callers}
        for call_id in list(self._unloaded)[:-_REMEMBERED]:
            del self._unloaded[call_id]
        return Actions(publish=True, answers=_done(change.callers, result.answers))

    def _is_loading(self, name: str) -> bool:
        """Return whether an adapter is being loaded under a name."""
        return any(each.is_loading and each.adapter.name == name for each in self._changes.values())

    def _call(self, change: _Change, call: AnyCall, timeout_s: float) -> PoolCall:
        """Return the next call of a change, whose result is waited for."""
        change.awaited = type(call)
        call_id = own_call_id()
        self._changes[call_id] = change
        return PoolCall(call_id, OWN, call, CallTarget(change.adapter.group), timeout_s)


def _caller(message: PoolCall, now: float) -> _Caller:
    return _Caller(message.frontend_id, message.call_id, now + message.timeout_s)


def _why_not_added(result: PoolResult) -> tuple[str, ErrorKind] | None:
    """Return why an adapter was not added: a problem that workers found, or an error of theirs."""
    if result.error:
        return f"{NOT_LOADED}{result.error}", result.kind
    for each in result.answers:
        if isinstance(each.value, AdapterAdded) and each.value.problem is not None:
            return f"{NOT_LOADED}{each.value.problem}", UNFIT
    # The successor of a worker that has ended loads all adapters that are served by then.
    errors = [each.error for each in result.answers if each.error and each.error != ENDED]
    if errors:
        return f"{NOT_LOADED}{errors[0]}", TIMEOUT if errors[0] == NO_ANSWER else FAILED
    if all(each.error for each in result.answers):
        return "has not been loaded: the workers ended meanwhile", FAILED
    return None


def _done(callers: list[_Caller], answers: tuple[CallAnswer, ...]) -> tuple[Answer, ...]:
    """Return the answers of a successful change."""
    return tuple((each.frontend_id, PoolResult(each.call_id, answers)) for each in callers)


def _answer(caller: _Caller, error: str = "", kind: ErrorKind = ABSENT) -> Answer:
    return caller.frontend_id, PoolResult(caller.call_id, (), error, kind)
