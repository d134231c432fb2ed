"""Runs the responses that are streamed or in the background, and stores what comes of them."""

import asyncio
import contextlib
import logging
import secrets

from headrace.frontend.context import Context
from headrace.frontend.errors import FAILURE, InternalError, TooBusy
from headrace.frontend.middleware import request_scope
from headrace.frontend.middleware.errors import api_error
from headrace.frontend.responses.execution.live_response import LiveResponse
from headrace.frontend.responses.execution.response_run import ResponseRun
from headrace.frontend.responses.output.response_body import FAILED, ResponseBody, with_status
from headrace.frontend.responses.request.requested_tools import RequestedTools
from headrace.frontend.responses.store.database import StoreUnavailable
from headrace.frontend.responses.store.ownership import ResponseOwnership
from headrace.frontend.responses.store.response_store import ResponseStore

log = logging.getLogger(__name__)

MAX_BACKGROUND = 1000
STORE_TRIES = 5
# How long a background response waits for a worker that takes it.
PATIENCE_S = 600.0


class ResponseRunner:
    """Of one frontend. owner: what it is called in the store. changed: set when there is something
    to be stored, by `flush`."""

    def __init__(
        self, context: Context, store: ResponseStore, ownership: ResponseOwnership
    ) -> None:
        self.owner = secrets.token_hex(8)
        self.changed = asyncio.Event()
        self._context = context
        self._store = store
        self._ownership = ownership
        self._live: dict[str, LiveResponse] = {}
        self._drives: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()
        self._stopping = False

    @property
    def running(self) -> set[str]:
        """The stored responses that run here."""
        return set(self._live)

    async def stop(self) -> None:
        """What runs is left to others."""
        self._stopping = True
        for live in list(self._live.values()):
            live.stop()
        await asyncio.gather(*self._drives, return_exceptions=True)
        if self._live:
            with contextlib.suppress(StoreUnavailable):
                await self.flush()
                await self._ownership.release(self.owner)

    def live(self, response_id: str) -> LiveResponse | None:
        return self._live.get(response_id)

    def drop(self, response_id: str) -> None:
        """A response is not ours any more, if it was."""
        live = self._live.get(response_id)
        if live is not None:
            live.stop(lost=True)

    # Begin

    def new_run(self, live: LiveResponse, tools: RequestedTools) -> ResponseRun:
        patience_s = PATIENCE_S if live.job.request.background else 0.0
        return ResponseRun(
            self._context, live.job, tools, live.journal, live.sink, patience_s=patience_s
        )

    async def start_stream(self, live: LiveResponse, run: ResponseRun) -> None:
        """Run a response for the HTTP request that is being answered, and that it ends with.
        Waits for the first output; raises what keeps it from coming."""
        cleanups = request_scope.current().cleanups
        cleanups.append(run.close)
        await run.prepare()
        if live.job.request.is_stored:
            await self._register(live)
        self._drive_soon(live, run)
        cleanups.append(live.stop)
        await live.started

    async def start_background(self, live: LiveResponse, run: ResponseRun) -> None:
        """Run a response that outlives the HTTP request."""
        running = sum(bool(each.job.request.background) for each in self._live.values())
        if running >= MAX_BACKGROUND:
            raise TooBusy(f"{running} background responses are running; try again later.")
        try:
            await run.prepare()
            await self._register(live)
        except BaseException:
            run.close()
            raise
        self._drive_soon(live, run)

    async def _register(self, live: LiveResponse) -> None:
        await self._store.create(live.job, self.owner)
        self._keep(live)

    def go_on(self, live: LiveResponse, run: ResponseRun) -> None:
        """Run a response that is stored, and this frontend's."""
        self._keep(live)
        self._drive_soon(live, run)

    def _keep(self, live: LiveResponse) -> None:
        live.is_stored = True
        live.changed = self.changed
        self._live[live.job.response_id] = live

    def _drive_soon(self, live: LiveResponse, run: ResponseRun) -> None:
        live.work = asyncio.create_task(_work(live, run))
        drive = asyncio.create_task(self._drive(live, run, live.work))
        self._drives.add(drive)
        drive.add_done_callback(self._drives.discard)

    # Run

    async def _drive(
        self, live: LiveResponse, run: ResponseRun, work: asyncio.Task[ResponseBody]
    ) -> None:
        """See a response to its end."""
        in_background = bool(live.job.request.background)
        if in_background:
            self._context.metrics.enter()
        try:
            body = await self._outcome(live, run, work)
            if body is not None:
                await self._end(live, run, body)
        except Exception as error:  # such as events that cannot be written
            log.error("a response cannot be told of", exc_info=error)
            await self._end_untold(live)
        finally:
            run.close()
            live.end(lost=live.lost or self._stopping)
            if not self._stopping:
                self._live.pop(live.job.response_id, None)
            if in_background:
                self._context.metrics.leave()

    async def _outcome(
        self, live: LiveResponse, run: ResponseRun, work: asyncio.Task[ResponseBody]
    ) -> ResponseBody | None:
        """How a response has ended; None if that is not ours to say."""
        try:
            return await work
        except asyncio.CancelledError:
            return None if live.lost or self._stopping else run.cancelled()
        except Exception as error:
            told = api_error(error)
            if live.job.request.background or live.started.done():
                return run.failed(told)
            await self._forget(live)
            live.started.set_exception(told)
            live.started.exception()  # it may be that nobody waits any more
            return None

    async def _forget(self, live: LiveResponse) -> None:
        """Nobody has been told of this response."""
        if live.is_stored:
            with contextlib.suppress(StoreUnavailable):
                await self._store.delete(live.job.response_id)

    async def _end(self, live: LiveResponse, run: ResponseRun, body: ResponseBody) -> None:
        """Store the end, and only then tell of it: who knows of it may ask any frontend."""
        if not live.is_stored:
            run.tell(body)
            return
        live.hold()
        run.tell(body)
        for attempt in range(STORE_TRIES):
            try:
                await self._finish(live, body)
                return
            except StoreUnavailable as error:
                if attempt < STORE_TRIES - 1:
                    await asyncio.sleep(2.0**attempt / 4)
                elif live.job.request.background:
                    live.lost = True  # it is gone on with when the store is back
                else:
                    live.fail(error)

    async def _finish(self, live: LiveResponse, body: ResponseBody) -> None:
        async with self._lock:
            before, last = live.last_batches()
            if not await self._ownership.finish(self.owner, last, body, before):
                live.lost = True
                return
            for batch in (before, last):
                if batch is not None:
                    live.stored(batch)

    async def _end_untold(self, live: LiveResponse) -> None:
        """Its row at least is to say that it has failed, or others would begin it again."""
        if live.is_stored:
            body = with_status(live.job.body, FAILED, error=InternalError(FAILURE))
            with contextlib.suppress(StoreUnavailable):
                await self._ownership.finish(self.owner, live.batch(), body)

    async def flush(self) -> None:
        """Store what has been added to all responses."""
        async with self._lock:
            batches = {id_: live.batch() for id_, live in self._live.items()}
            added = [batch for batch in batches.values() if batch.events or batch.journal]
            if not added:
                return
            lost = await self._ownership.add(self.owner, added)
            for batch in added:
                live = self._live.get(batch.response_id)
                if live is not None and batch.response_id not in lost:
                    live.stored(batch)
        for response_id in lost:
            self.drop(response_id)


async def _work(live: LiveResponse, run: ResponseRun) -> ResponseBody:
    run.begin()
    live.has_begun = True
    return await run.run()
