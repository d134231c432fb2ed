"""Run streamed and background responses, and store their events and results."""

import asyncio
import contextlib
import logging
import secrets
import time
from dataclasses import replace

from headrace.frontend.context import Context
from headrace.frontend.errors import FAILURE, ApiError, InternalError, TooManyRequests
from headrace.frontend.middleware import request_scope
from headrace.frontend.middleware.errors import api_error
from headrace.frontend.rate_limits.rate_limits import Slot
from headrace.frontend.responses.execution.job import Job
from headrace.frontend.responses.execution.live_response import LiveResponse
from headrace.frontend.responses.execution.response_run import ResponseRun
from headrace.frontend.responses.output.response_body import FAILED, ResponseBody, with_status
from headrace.frontend.responses.request.requested_tools import RequestedTools
from headrace.frontend.responses.store.conversation_store import ConversationStore
from headrace.frontend.responses.store.ownership import ResponseOwnership
from headrace.frontend.responses.store.response_store import ResponseStore
from headrace.frontend.store.database import StoreUnavailable

log = logging.getLogger("headrace.frontend.responses")

MAX_BACKGROUND = 1000
STORE_ATTEMPTS = 5
# How long a background response waits for a worker that accepts it.
BACKGROUND_PATIENCE_S = 600.0


class ResponseRunner:
    """Runs the responses of one frontend.

    owner: its name in the store.
    changed: set when `flush` has something to store.
    """

    def __init__(
        self,
        context: Context,
        store: ResponseStore,
        conversations: ConversationStore,
        ownership: ResponseOwnership,
    ) -> None:
        self.owner = secrets.token_hex(8)
        self.changed = asyncio.Event()
        self._context = context
        self._store = store
        self._conversations = conversations
        self._ownership = ownership
        self._live: dict[str, LiveResponse] = {}
        self._run_tasks: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()
        self._stopping = False

    @property
    def running(self) -> set[str]:
        """The ids of the stored responses that run here."""
        return set(self._live)

    async def stop(self) -> None:
        """Stop all runs and release them to other frontends."""
        self._stopping = True
        for live in list(self._live.values()):
            live.stop()
        await asyncio.gather(*self._run_tasks, return_exceptions=True)
        if self._live:
            with contextlib.suppress(StoreUnavailable):
                await self.flush()
                await self._ownership.release(self.owner)

    def live(self, response_id: str) -> LiveResponse | None:
        """Return a stored response that runs here; None if it does not."""
        return self._live.get(response_id)

    def lose(self, response_id: str) -> None:
        """Stop running a response that this frontend does not own any more, if it runs here."""
        live = self._live.get(response_id)
        if live is not None:
            live.stop(lost=True)

    # Start

    def new_run(
        self, live: LiveResponse, tools: RequestedTools, *, was_taken: bool = False
    ) -> ResponseRun:
        """Return a run whose events go to the live response.

        was_taken: whether it has begun before, so that no limit of its key stops it.
        """
        patience_s = BACKGROUND_PATIENCE_S if live.job.request.background else 0.0
        context = self._context
        if was_taken:
            context = replace(context, rate_limits=context.rate_limits.not_enforced())
        return ResponseRun(
            context, live.job, tools, live.journal, live.add_event, patience_s=patience_s
        )

    async def start_stream(self, live: LiveResponse, run: ResponseRun) -> None:
        """Run a response for the current HTTP request; it ends when that does.

        Waits for the first output and raises the error that prevents it; but no longer than streams
        may be silent, and errors that come later become events.
        """
        scope = request_scope.current()
        cleanups = scope.cleanups
        cleanups.append(run.close)
        await run.prepare()
        if live.job.request.is_stored:
            await self._register(live)
        self._spawn(live, run)
        cleanups.append(live.stop)
        if keep_alive_s := self._context.config.sse_keep_alive_interval_s:
            silent_s = time.monotonic() - scope.started
            await asyncio.wait({live.started}, timeout=max(0.0, keep_alive_s - silent_s))
            if not live.started.done():
                live.started.set_result(None)
        await live.started

    async def start_background(self, live: LiveResponse, run: ResponseRun) -> None:
        """Run a response that outlives the current HTTP request."""
        tenant = live.job.principal.tenant
        running = sum(
            bool(other.job.request.background) and other.job.principal.tenant == tenant
            for other in self._live.values()
        )
        if running >= MAX_BACKGROUND:
            raise TooManyRequests(f"{running} background responses are running; try again later.")
        try:
            await run.prepare()
            await self._register(live)
        except BaseException:
            run.close()
            raise
        self._spawn(live, run)

    async def _register(self, live: LiveResponse) -> None:
        await self._store.create(live.job, self.owner)
        self._track(live)

    def resume(self, live: LiveResponse, run: ResponseRun) -> None:
        """Run a response that is stored already and that this frontend owns now."""
        self._track(live)
        self._spawn(live, run)

    def _track(self, live: LiveResponse) -> None:
        live.is_stored = True
        live.changed = self.changed
        self._live[live.job.response_id] = live

    def _spawn(self, live: LiveResponse, run: ResponseRun) -> None:
        live.work = asyncio.create_task(_begin_and_run(live, run))
        slot = self._slot(live.job)
        task = asyncio.create_task(self._run_to_end(live, run, live.work, slot))
        self._run_tasks.add(task)
        task.add_done_callback(self._run_tasks.discard)

    # Run

    async def _run_to_end(
        self, live: LiveResponse, run: ResponseRun, work: asyncio.Task[ResponseBody], slot: Slot
    ) -> None:
        """Wait for the work of a response, store its end and clean up."""
        in_background = bool(live.job.request.background)
        if in_background:
            self._context.metrics.enter()
        try:
            body = await self._outcome(live, run, work)
            if body is not None:
                await self._end(live, run, body)
        except Exception as error:  # such as an event that cannot be serialized
            log.error("cannot end a response", exc_info=error)
            await self._end_without_event(live)
        finally:
            run.close()
            slot.release()
            live.finish(lost=live.lost or self._stopping)
            if not self._stopping:
                self._live.pop(live.job.response_id, None)
            if in_background:
                self._context.metrics.leave()

    def _slot(self, job: Job) -> Slot:
        """Return what counts a response among the requests of its key that run at once.

        It is that of the HTTP request which has created it, as long as there is one.
        """
        scope, key = request_scope.current_or_none(), job.principal.key
        if scope is not None and scope.slot is not None:
            return scope.slot.hold()
        return Slot() if key is None else self._context.rate_limits.enter(key)

    async def _outcome(
        self, live: LiveResponse, run: ResponseRun, work: asyncio.Task[ResponseBody]
    ) -> ResponseBody | None:
        """Return the ended response; None if this frontend must not record an end."""
        try:
            return await work
        except asyncio.CancelledError:
            return None if live.lost or self._stopping else run.cancelled()
        except Exception as error:
            shown = api_error(error)
            if live.job.request.background or live.started.done():
                return run.failed(shown)
            await self._delete(live)
            live.started.set_exception(shown)
            live.started.exception()  # marks it as retrieved: its waiter may be gone
            return None

    async def _delete(self, live: LiveResponse) -> None:
        """Delete a response of which the client has seen nothing."""
        if live.is_stored:
            with contextlib.suppress(StoreUnavailable):
                await self._store.delete(live.job.response_id, live.job.principal.tenant)

    async def _end(self, live: LiveResponse, run: ResponseRun, body: ResponseBody) -> None:
        """Store the end, then show it: a client that has seen it may ask any frontend."""
        if not live.is_stored:
            run.emit_end(await self._add_to_conversation(live, run, body))
            return
        live.hide_end()
        run.emit_end(body)
        for attempt in range(STORE_ATTEMPTS):
            try:
                await self._finish(live, body)
                return
            except StoreUnavailable as error:
                if attempt < STORE_ATTEMPTS - 1:
                    await asyncio.sleep(2.0**attempt / 4)
                elif live.job.request.background:
                    live.lost = True  # resumed by some frontend when the store is back
                else:
                    live.replace_end(error)

    async def _add_to_conversation(
        self, live: LiveResponse, run: ResponseRun, body: ResponseBody
    ) -> ResponseBody:
        """Add the items of a response that is not stored; return its body, failed if that fails."""
        conversation_id = live.job.request.conversation
        if conversation_id is not None:
            try:
                await self._conversations.append(
                    conversation_id, live.job.principal.tenant, live.job.new_items(body)
                )
            except ApiError as error:
                return run.failed(error)
        return body

    async def _finish(self, live: LiveResponse, body: ResponseBody) -> None:
        async with self._lock:
            before, last = live.final_batches()
            if not await self._ownership.finish(self.owner, last, body, before, live.job):
                live.lost = True
                return
            for batch in (before, last):
                if batch is not None:
                    live.mark_stored(batch)

    async def _end_without_event(self, live: LiveResponse) -> None:
        """Store that a response has failed, or other frontends would run it again."""
        if live.is_stored:
            body = with_status(live.job.body, FAILED, error=InternalError(FAILURE))
            with contextlib.suppress(StoreUnavailable):
                await self._ownership.finish(self.owner, live.pending_batch(), body)

    async def flush(self) -> None:
        """Store what has been added to all responses."""
        async with self._lock:
            batches = {id_: live.pending_batch() for id_, live in self._live.items()}
            added = [batch for batch in batches.values() if batch.events or batch.journal]
            if not added:
                return
            lost = await self._ownership.add(self.owner, added)
            for batch in added:
                live = self._live.get(batch.response_id)
                if live is not None and batch.response_id not in lost:
                    live.mark_stored(batch)
        for response_id in lost:
            self.lose(response_id)


async def _begin_and_run(live: LiveResponse, run: ResponseRun) -> ResponseBody:
    run.begin()
    live.has_begun = True
    return await run.run()
