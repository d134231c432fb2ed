"""A response that this frontend runs, and those who follow its events."""

import asyncio
from collections.abc import AsyncIterator

from headrace.frontend.errors import ApiError
from headrace.frontend.responses.execution.job import Job
from headrace.frontend.responses.output.event_writer import EventWriter
from headrace.frontend.responses.output.response_body import ResponseBody
from headrace.frontend.responses.store.journal import Entry, Journal
from headrace.frontend.responses.store.rows import EventBatch


class LiveResponse:
    """base: how many of its events are stored already, from an earlier run, in so many batches;
    they are made again, and dropped.

    Followers of a background response see an event only when it is stored: should this frontend
    die, what they have seen stays true. For others the connection dies with it.

    is_stored: whether there is a row in the store. lost: it is not ours any more. work: what is to
    be cancelled if it is not to go on. changed: set when there is something to store.
    """

    def __init__(self, job: Job, journal: Journal, base: int = 0, batches: int = 0) -> None:
        self.job = job
        self.journal = journal
        self.is_stored = False
        self.lost = False
        self.work: asyncio.Task[ResponseBody] | None = None
        self.has_begun = False
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.changed: asyncio.Event | None = None
        self._base = base
        self._made = 0
        self._events: list[str] = []
        self._flushed = 0
        self._visible = 0
        self._holds = bool(job.request.background)
        self._ended = False
        self._before_end: int | None = None
        self._entries: list[Entry] = []
        self._batches = batches
        self._tried: EventBatch | None = None
        self._news = asyncio.Event()

    @property
    def base(self) -> int:
        return self._base

    def sink(self, event: str) -> None:
        """Take an event."""
        number, self._made = self._made, self._made + 1
        if number < self._base:
            return
        self._events.append(event)
        if not self._holds:
            self._visible = len(self._events)
            self._tell()
        if self.changed is not None:
            self.changed.set()
        if self.has_begun and not self.started.done():
            self.started.set_result(None)

    def hold(self) -> None:
        """What comes now is the end; it is not to be seen before it is stored."""
        self._holds = True
        self._before_end = len(self._events)

    def fail(self, error: ApiError) -> None:
        """Its end cannot be kept: forget what nobody has seen, and tell of that instead."""
        del self._events[self._visible :]
        EventWriter(self._events.append, self._base + self._visible).error(error)

    # For the store

    def batch(self) -> EventBatch:
        """What is not stored yet, without the end. The same again until it is `stored`: whom the
        store has failed cannot know whether it has it."""
        if self._tried is not None:
            return self._tried
        made = self._batch(self._flushed, self._before_end, 0, self._batches)
        if made.events or made.journal:
            self._tried = made
        return made

    def last_batches(self) -> tuple[EventBatch | None, EventBatch]:
        """One that may be stored already, and all that comes after it, the end included."""
        tried = self._tried
        if tried is None:
            return None, self._batch(self._flushed, None, 0, self._batches)
        flushed = self._flushed + len(tried.events)
        return tried, self._batch(flushed, None, len(tried.journal), self._batches + 1)

    def _batch(self, start: int, end: int | None, entry: int, number: int) -> EventBatch:
        if self.job.request.background:  # others are not gone on with
            self._entries += self.journal.take()
        first, events, entries = self._base + start, self._events[start:end], self._entries[entry:]
        return EventBatch(self.job.response_id, first, events, entries, number)

    def stored(self, batch: EventBatch) -> None:
        """The batch is in the store."""
        self._flushed += len(batch.events)
        del self._entries[: len(batch.journal)]
        self._batches += 1
        self._tried = None
        if self._holds:
            self._visible = max(self._visible, self._flushed)
        if self.changed is not None and (self._entries or len(self._events) > self._flushed):
            self.changed.set()  # it has come while the batch was tried
        self._tell()

    def stop(self, *, lost: bool = False) -> None:
        """It is not to go on. lost: here."""
        self.lost |= lost
        if self.work is not None:
            self.work.cancel()

    def end(self, *, lost: bool = False) -> None:
        """There will be no more. lost: not from this frontend."""
        self.lost |= lost
        if not lost:
            self._visible = len(self._events)
        self._ended = True
        self._tell()
        if not self.started.done():
            self.started.set_result(None)

    # For followers

    async def follow(self, first: int) -> AsyncIterator[list[str]]:
        """The events from a number on, that must be at least `base`, as they come."""
        place = first - self._base
        while True:
            news = self._news
            if place < self._visible:
                events = self._events[place : self._visible]
                place = self._visible
                yield events
            elif self._ended:
                return
            else:
                await news.wait()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
