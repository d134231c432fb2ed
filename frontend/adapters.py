"""LoRA adapters as a frontend sees them: which there are, and which its requests use."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from headrace.protocol.state import AdapterState, PoolState

_LOOK_AGAIN_S = 0.02


def adapters_of(state: PoolState | None) -> Iterator[tuple[str, AdapterState]]:
    """Those that take requests, with the names of their groups."""
    for group in () if state is None else state.groups:
        for adapter in group.adapters:
            if not adapter.is_leaving:
                yield group.name, adapter


class AdapterUse:
    """Which adapters the requests of this frontend use. One that has found an adapter by its name
    uses it to its end, also while nothing of it is in a worker."""

    def __init__(self) -> None:
        self._users: Counter[str] = Counter()

    def hold(self, adapter_id: str) -> Callable[[], None]:
        """Note a user of an adapter; returns what is to be called when it has ended, once."""
        self._users[adapter_id] += 1

        def release() -> None:
            self._users[adapter_id] -= 1
            if not self._users[adapter_id]:
                del self._users[adapter_id]

        return release

    def is_used(self, adapter_id: str) -> bool:
        return adapter_id in self._users


class AdapterNews:
    """What the coordinator asks a frontend about an adapter: answers come when they are true, or
    are false when the time for them is over.

    state: the last one that this frontend knows.
    """

    def __init__(self, state: Callable[[], PoolState | None], use: AdapterUse) -> None:
        self._state, self._use = state, use

    async def await_shown(self, told: dict[str, Any]) -> bool:
        """Whether requests find the adapter."""
        return await _until(lambda: self._is_shown(told["adapter_id"]), told["timeout_s"])

    async def await_unused(self, told: dict[str, Any]) -> bool:
        """Whether no request finds it any more, and none that has found it goes on."""
        adapter_id = told["adapter_id"]

        def is_unused() -> bool:
            return not self._is_shown(adapter_id) and not self._use.is_used(adapter_id)

        return await _until(is_unused, told["timeout_s"])

    def _is_shown(self, adapter_id: str) -> bool:
        return any(each.adapter_id == adapter_id for _, each in adapters_of(self._state()))


async def _until(is_so: Callable[[], bool], timeout_s: float) -> bool:
    ends = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() >= ends:
            return False
        await asyncio.sleep(_LOOK_AGAIN_S)
    return True
