"""Hold the events of a response that this frontend runs, for the store and for followers."""

import asyncio
from collections.abc import AsyncIterator

from headrace.frontend.errors import ApiError
from headrace.frontend.responses.execution.job import Job
from headrace.frontend.responses.output.event_writer import EventWriter
from headrace.frontend.responses.output.response_body import ResponseBody
from headrace.frontend.responses.store.journal import Entry, Journal
from headrace.frontend.responses.store.rows import EventBatch


class LiveResponse:
    """A response that runs here: its events, which of them are stored, and which followers may see.

    base, batches: how many events an earlier run has stored, in how many batches; this run makes
        those events again, and they are dropped.
    is_stored: whether there is a row in the store.
    lost: whether another frontend owns it now, or nobody (cancelled, deleted).
    work: the task to cancel if it must stop.
    changed: set when there is something to store.

    Followers of a background response see an event only once it is stored: should this frontend
    die, what they have seen stays true. Other responses end with their connection.
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
        self._event_count = 0
        self._events: list[str] = []
        self._flushed = 0
        self._visible = 0
        self._is_hidden = bool(job.request.background)
        self._ended = False
        self._before_end: int | None = None
        self._entries: list[Entry] = []
        self._batches = batches
        self._tried: EventBatch | None = None
        self._advanced = asyncio.Event()

    @property
    def base(self) -> int:
        """The number of the first event that this run keeps."""
        return self._base

    def add_event(self, event: str) -> None:
        """Append an event, or drop it if an earlier run has stored it."""
        number, self._event_count = self._event_count, self._event_count + 1
        if number < self._base:
            return
        self._events.append(event)
        if not self._is_hidden:
            self._visible = len(self._events)
            self._notify()
        if self.changed is not None:
            self.changed.set()
        if self.has_begun and not self.started.done():
            self.started.set_result(None)

    def hide_end(self) -> None:
        """Hide the events that follow, which are the end, until they are stored."""
        self._is_hidden = True
        self._before_end = len(self._events)

    def replace_end(self, error: ApiError) -> None:
        """Replace the events that nobody has seen by an error event: the end cannot be stored."""
        del self._events[self._visible :]
        EventWriter(self._events.append, self._base + self._visible).error(error)

    # For the store

    def pending_batch(self) -> EventBatch:
        """Return the events that are not stored yet, without the end.

        Returns the same batch until `mark_stored`: after a failure of the store it is unknown
        whether the batch was stored.
        """
        if self._tried is not None:
            return self._tried
        batch = self._batch(self._flushed, self._before_end, 0, self._batches)
        if batch.events or batch.journal:
            self._tried = batch
        return batch

    def final_batches(self) -> tuple[EventBatch | None, EventBatch]:
        """Return a batch that may be stored already, and all that follows it, with the end."""
        tried = self._tried
        if tried is None:
            return None, self._batch(self._flushed, None, 0, self._batches)
        flushed = self._flushed + len(tried.events)
        return tried, self._batch(flushed, None, len(tried.journal), self._batches + 1)

    def _batch(self, start: int, end: int | None, entry: int, number: int) -> EventBatch:
        if self.job.request.background:  # only these can be resumed
            self._entries += self.journal.drain()
        first, events, entries = self._base + start, self._events[start:end], self._entries[entry:]
        return EventBatch(self.job.response_id, first, events, entries, number)

    def mark_stored(self, batch: EventBatch) -> None:
        """Note that the store has a batch, and show its events."""
        self._flushed += len(batch.events)
        del self._entries[: len(batch.journal)]
        self._batches += 1
        self._tried = None
        if self._is_hidden:
            self._visible = max(self._visible, self._flushed)
        if self.changed is not None and (self._entries or len(self._events) > self._flushed):
            self.changed.set()  # came while the batch was being stored
        self._notify()

    def stop(self, *, lost: bool = False) -> None:
        """Cancel the work. lost: this frontend does not own the response any more."""
        self.lost |= lost
        if self.work is not None:
            self.work.cancel()

    def finish(self, *, lost: bool = False) -> None:
        """End the stream of events. lost: only this frontend's part of it."""
        self.lost |= lost
        if not lost:
            self._visible = len(self._events)
        self._ended = True
        self._notify()
        if not self.started.done():
            self.started.set_result(None)

    # For followers

    async def follow(self, first: int) -> AsyncIterator[list[str]]:
        """Yield events as they come, from number `first`, which must be at least `base`.

        May yield no events, in particular after `wake_followers`.
        """
        index = first - self._base
        while True:
            advanced = self._advanced
            if index < self._visible:
                events = self._events[index : self._visible]
                index = self._visible
                yield events
            elif self._ended:
                return
            else:
                await advanced.wait()
                if index >= self._visible and not self._ended:
                    yield []

    def wake_followers(self) -> None:
        """Let the followers yield, even if there is no new event."""
        self._notify()

    def _notify(self) -> None:
        advanced, self._advanced = self._advanced, asyncio.Event()
        advanced.set()
