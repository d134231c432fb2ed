"""The events of a response, from a number on and to its end, whoever runs it.

A stream ends with one event that tells of an end, whatever happens to the response, its frontend or
the store meanwhile.
"""

import asyncio
import time
from collections.abc import AsyncIterator

from openai.types.responses import ResponseErrorEvent

from headrace.frontend.errors import ApiError, NotFound
from headrace.frontend.responses.execution.live_response import LiveResponse
from headrace.frontend.responses.output.event_writer import LIFECYCLE, EventWriter, event_name
from headrace.frontend.responses.store.database import StoreUnavailable
from headrace.frontend.responses.store.ownership import ResponseOwnership
from headrace.frontend.responses.store.response_store import ResponseStore

# How often another frontend's response is looked at.
POLL_S = 0.1
# How long a stream waits for a store that cannot be reached.
PATIENCE_S = 30.0

_BEGUN = ("created", "queued", "in_progress")
_ENDS = tuple(
    f"event: {name}\n"
    for name in [
        *(event_name(event) for kind, event in LIFECYCLE.items() if kind not in _BEGUN),
        event_name(ResponseErrorEvent),
    ]
)


class EventStreams:
    """Reads what the frontends of a store tell."""

    def __init__(self, store: ResponseStore, ownership: ResponseOwnership) -> None:
        self._store = store
        self._ownership = ownership

    async def live(self, live: LiveResponse, first: int) -> AsyncIterator[str]:
        """Of a response that this frontend runs, and perhaps loses."""
        place, last = first, ""
        async for events in live.follow(first):
            place, last = place + len(events), events[-1]
            yield "".join(events)
        if not live.lost or last.startswith(_ENDS):
            return
        async for text in self._stored(live.job.response_id, place, is_begun=True):
            yield text

    def stored(self, response_id: str, first: int) -> AsyncIterator[str]:
        """Of one that others run."""
        return self._stored(response_id, first, is_begun=False)

    async def _stored(self, response_id: str, place: int, is_begun: bool) -> AsyncIterator[str]:
        """is_begun: somebody has seen events and no end, so that there is to be one."""
        last = ""
        try:
            while True:
                events, ended = await self._read(response_id, place)
                if events:
                    place, last = place + len(events), events[-1]
                    yield "".join(events)
                elif ended:
                    break
                else:
                    await asyncio.sleep(POLL_S)
            if (is_begun or last) and not last.startswith(_ENDS):
                yield await self._end(response_id, place)
        except StoreUnavailable as error:
            yield _error(error, place)

    async def _read(self, response_id: str, first: int) -> tuple[list[str], bool]:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await self._ownership.events(response_id, first)
            except StoreUnavailable:
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(1.0)

    async def _end(self, response_id: str, place: int) -> str:
        """What has become of a response whose stored events do not tell it from here on: whoever
        ended it knew of fewer events than this stream's client, or it is deleted."""
        stored = await self._store.get(response_id)
        if stored is None:
            return _error(NotFound("The response has been deleted."), place)
        told: list[str] = []
        EventWriter(told.append, place).lifecycle(stored.body["status"], stored.body)
        return told[0]


def _error(error: ApiError, number: int) -> str:
    told: list[str] = []
    EventWriter(told.append, number).error(error)
    return told[0]
