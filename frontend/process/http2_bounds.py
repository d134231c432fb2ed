"""Bounds on what a client of HTTP/2 can make a frontend do."""

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import h2.events
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, BufferCompleteError, StreamBuffer

from headrace.frontend.process.patience import Patience

# Frames that only cost time (resets, pings, settings, empty data) which a client may send at once,
# and each second.
FREE_FRAMES, FRAMES_PER_S = 1000, 100

_COSTLY = (
    h2.events.StreamReset,
    h2.events.PingReceived,
    h2.events.RemoteSettingsChanged,
    h2.events.PriorityUpdated,
    h2.events.UnknownFrameReceived,
)


class FrameBudget:
    """How many frames that only cost time a client may still send."""

    def __init__(self) -> None:
        self._left, self._seen_at = float(FREE_FRAMES), time.monotonic()

    def spend(self, events: Iterable[h2.events.Event]) -> bool:
        """Count the frames that only cost time; return whether they were within the bounds."""
        frames = sum(isinstance(each, _COSTLY) or _is_empty(each) for each in events)
        if not frames:
            return True
        now = time.monotonic()
        gained = (now - self._seen_at) * FRAMES_PER_S
        self._left = min(FREE_FRAMES, self._left + gained) - frames
        self._seen_at = now
        return self._left >= 0


class PatientBuffer(StreamBuffer):
    """A stream's unsent bytes. on_stall: called when its client does not read them."""

    def __init__(
        self, event_class: Any, patience: Patience, on_stall: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(event_class)
        self._patience, self._on_stall = patience, on_stall

    async def push(self, data: bytes) -> None:
        if self._complete:
            raise BufferCompleteError
        self.buffer.extend(data)
        await self._is_empty.clear()
        if len(self.buffer) >= BUFFER_HIGH_WATER:
            await self._wait(self._paused.wait)
            await self._paused.clear()

    async def drain(self) -> None:
        await self._wait(self._is_empty.wait)

    async def _wait(self, wait: Callable[[], Awaitable[object]]) -> None:
        if not await self._patience.wait(wait, lambda: len(self.buffer)):
            await self._on_stall()
            raise BufferCompleteError


def _is_empty(event: h2.events.Event) -> bool:
    """Return whether an event is of a frame of data without any, which ends nothing."""
    return (
        isinstance(event, h2.events.DataReceived) and not event.data and event.stream_ended is None
    )
