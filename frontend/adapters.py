"""LoRA adapters as a frontend sees them: which are served, and which its requests use."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator

from headrace.protocol.call_results import ConditionMet
from headrace.protocol.calls import AwaitAdapterShown, AwaitAdapterUnused
from headrace.protocol.state import AdapterState, PoolState

_POLL_S = 0.02


def adapters_of(state: PoolState | None) -> Iterator[tuple[str, AdapterState]]:
    """Yield the adapters that take requests, with the names of their groups."""
    for group in () if state is None else state.groups:
        for adapter in group.adapters:
            if not adapter.is_draining:
                yield group.name, adapter


class AdapterUse:
    """Counts the requests that use each adapter. A request that has found an adapter by its name
    uses it until it ends, also while no worker runs it."""

    def __init__(self) -> None:
        self._users: Counter[str] = Counter()

    def hold(self, adapter_id: str) -> Callable[[], None]:
        """Count a user of an adapter; return a function that must be called once when it ends."""
        self._users[adapter_id] += 1

        def release() -> None:
            self._users[adapter_id] -= 1
            if not self._users[adapter_id]:
                del self._users[adapter_id]

        return release

    def is_used(self, adapter_id: str) -> bool:
        return adapter_id in self._users


class AdapterWatch:
    """Answers the coordinator's calls about adapters: as soon as the condition is met, or when its
    time is over.

    state: returns the last pool state that this frontend knows.
    """

    def __init__(self, state: Callable[[], PoolState | None], use: AdapterUse) -> None:
        self._state, self._use = state, use

    async def await_shown(self, call: AwaitAdapterShown) -> ConditionMet:
        """Wait until requests find the adapter."""
        return await _until(lambda: self._is_shown(call.adapter_id), call.timeout_s)

    async def await_unused(self, call: AwaitAdapterUnused) -> ConditionMet:
        """Wait until no request finds the adapter, and those that have found it have ended."""
        adapter_id = call.adapter_id

        def is_unused() -> bool:
            return not self._is_shown(adapter_id) and not self._use.is_used(adapter_id)

        return await _until(is_unused, call.timeout_s)

    def _is_shown(self, adapter_id: str) -> bool:
        return any(each.adapter_id == adapter_id for _, each in adapters_of(self._state()))


async def _until(is_met: Callable[[], bool], timeout_s: float) -> ConditionMet:
    deadline = time.monotonic() + timeout_s
    while not is_met():
        if time.monotonic() >= deadline:
            return ConditionMet(False)
        await asyncio.sleep(_POLL_S)
    return ConditionMet(True)
