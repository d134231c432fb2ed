"""A response that this frontend runs, and those who follow its events."""

import asyncio
from collections.abc import AsyncIterator

from frontend.errors import ApiError
from frontend.responses.body import Body
from frontend.responses.events import Events
from frontend.responses.job import Job
from frontend.responses.journal import Entry, Journal
from frontend.responses.rows import Batch


class Live:
    """base: how many of its events are stored already, from an earlier run; they are made again,
    and dropped.

    Followers of a background response see an event only when it is stored: should this frontend
    die, what they have seen stays true. For others the connection dies with it.

    is_stored: whether there is a row in the store. lost: it is not ours any more. work: what is to
    be cancelled if it is not to go on. changed: set when there is something to store.
    """

    def __init__(self, job: Job, journal: Journal, base: int = 0) -> None:
        self.job = job
        self.journal = journal
        self.is_stored = False
        self.lost = False
        self.work: asyncio.Task[Body] | None = None
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
        Events(self._events.append, self._base + self._visible).error(error)

    # For the store

    def batch(self, *, to_end: bool = False) -> Batch:
        """What is not stored yet. to_end: the end as well."""
        if self.job.request.background:  # others are not gone on with
            self._entries += self.journal.take()
        return Batch(
            self.job.response_id,
            self._base + self._flushed,
            self._events[self._flushed : None if to_end else self._before_end],
            list(self._entries),
        )

    def stored(self, batch: Batch) -> None:
        """The batch is in the store."""
        self._flushed += len(batch.events)
        del self._entries[: len(batch.journal)]
        if self._holds:
            self._visible = max(self._visible, self._flushed)
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
