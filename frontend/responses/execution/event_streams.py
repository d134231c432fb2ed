"""Stream the events of a response from a sequence number to its end, whichever frontend runs it.

A stream ends with exactly one terminal event, whatever happens to the response, its frontend or the
store meanwhile.
"""

import asyncio
import time
from collections.abc import AsyncIterator

from openai.types.responses import ResponseErrorEvent

from headrace.frontend.errors import ApiError, NotFound
from headrace.frontend.responses.execution.live_response import LiveResponse
from headrace.frontend.responses.output.event_writer import (
    LIFECYCLE_EVENTS,
    EventWriter,
    event_name,
)
from headrace.frontend.responses.store.ownership import ResponseOwnership
from headrace.frontend.responses.store.response_store import ResponseStore
from headrace.frontend.store.database import StoreUnavailable
from headrace.frontend.streaming import KEEP_ALIVE, SilenceTimer

# How often the store is polled for another frontend's response.
POLL_S = 0.1
# How long a stream waits for a store that cannot be reached.
STORE_TIMEOUT_S = 30.0

_NOT_TERMINAL = ("created", "queued", "in_progress")
_TERMINAL_PREFIXES = tuple(
    f"event: {name}\n"
    for name in [
        *(
            event_name(event)
            for kind, event in LIFECYCLE_EVENTS.items()
            if kind not in _NOT_TERMINAL
        ),
        event_name(ResponseErrorEvent),
    ]
)


class EventStreams:
    """Streams of events, live from this frontend or read from the store."""

    def __init__(
        self, store: ResponseStore, ownership: ResponseOwnership, keep_alive_s: float
    ) -> None:
        """keep_alive_s: seconds without an event after which a stream gets a comment; 0: never."""
        self._store = store
        self._ownership = ownership
        self._keep_alive_s = keep_alive_s

    async def follow_live(self, live: LiveResponse, first: int) -> AsyncIterator[str]:
        """Stream the events of a response that this frontend runs, from number `first`.

        Continues from the store if this frontend loses the response.
        """
        number, last = first, ""
        silence = SilenceTimer(self._keep_alive_s, live.wake_followers)
        try:
            async for events in live.follow(first):
                if events:
                    number, last = number + len(events), events[-1]
                elif not silence.is_due:
                    continue  # another follower's silence
                silence.note_sent()
                yield "".join(events) or KEEP_ALIVE
        finally:
            silence.stop()
        if not live.lost or last.startswith(_TERMINAL_PREFIXES):
            return
        job = live.job
        poll = self._poll(job.response_id, job.principal.tenant, number, must_end=True)
        async for text in poll:
            yield text

    def follow_stored(self, response_id: str, tenant: str, first: int) -> AsyncIterator[str]:
        """Stream the events of a response that another frontend runs, from number `first`."""
        return self._poll(response_id, tenant, first, must_end=False)

    async def _poll(
        self, response_id: str, tenant: str, number: int, must_end: bool
    ) -> AsyncIterator[str]:
        """Poll the store. must_end: the client has seen events and needs a terminal one."""
        last, said_at = "", time.monotonic()
        reading: asyncio.Future[tuple[list[str], bool]] | None = None
        try:
            while True:
                if 0 < self._keep_alive_s <= time.monotonic() - said_at:
                    said_at = time.monotonic()
                    yield KEEP_ALIVE
                reading = reading or asyncio.ensure_future(self._read(response_id, number))
                await asyncio.wait({reading}, timeout=self._keep_alive_s or None)
                if not reading.done():
                    continue
                (events, ended), reading = reading.result(), None
                if events:
                    number, last = number + len(events), events[-1]
                    said_at = time.monotonic()
                    yield "".join(events)
                elif ended:
                    break
                else:
                    await asyncio.sleep(POLL_S)
            if (must_end or last) and not last.startswith(_TERMINAL_PREFIXES):
                yield await self._terminal_event(response_id, tenant, number)
        except StoreUnavailable as error:
            yield _error_event(error, number)
        finally:
            if reading is not None:
                reading.cancel()

    async def _read(self, response_id: str, first: int) -> tuple[list[str], bool]:
        deadline = time.monotonic() + STORE_TIMEOUT_S
        while True:
            try:
                return await self._ownership.events(response_id, first)
            except StoreUnavailable:
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(1.0)

    async def _terminal_event(self, response_id: str, tenant: str, number: int) -> str:
        """Return a terminal event for a response whose stored events have none from here on.

        Either the frontend that ended it knew fewer events than this stream's client, or it has
        been deleted.
        """
        stored = await self._store.get(response_id, tenant)
        if stored is None:
            return _error_event(NotFound("The response has been deleted."), number)
        events: list[str] = []
        EventWriter(events.append, number).lifecycle(stored.body["status"], stored.body)
        return events[0]


def _error_event(error: ApiError, number: int) -> str:
    events: list[str] = []
    EventWriter(events.append, number).error(error)
    return events[0]
