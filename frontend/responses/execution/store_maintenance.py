"""Maintain the store: flush running responses, send heartbeats, take over, prune.

While a response runs, its owner stores what has been added every few milliseconds and renews a
heartbeat once a second. An owner without a heartbeat for a while has died: the first frontend that
finds its background responses resumes them.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Sequence

from headrace.frontend.context import Context
from headrace.frontend.critical_task import spawn_critical
from headrace.frontend.errors import ApiError, InternalError
from headrace.frontend.middleware.errors import api_error
from headrace.frontend.principal import restore_principal
from headrace.frontend.responses.execution.job import Job
from headrace.frontend.responses.execution.live_response import LiveResponse
from headrace.frontend.responses.execution.response_runner import ResponseRunner
from headrace.frontend.responses.output.event_writer import EventWriter
from headrace.frontend.responses.output.response_body import FAILED, with_status
from headrace.frontend.responses.request.requested_tools import read_tools
from headrace.frontend.responses.request_items import conversation_items
from headrace.frontend.responses.store.conversation_store import ConversationStore
from headrace.frontend.responses.store.fingerprint import fingerprints
from headrace.frontend.responses.store.journal import Journal
from headrace.frontend.responses.store.ownership import ResponseOwnership
from headrace.frontend.responses.store.response_store import ResponseStore
from headrace.frontend.responses.store.rows import EventBatch, StoredResponse
from headrace.frontend.responses.tools.interface import ToolServer
from headrace.frontend.schemas.responses import Item
from headrace.frontend.store.database import StoreUnavailable

log = logging.getLogger("headrace.frontend.responses")

FLUSH_S = 0.05
HEARTBEAT_S = 1.0
# An owner without a heartbeat for this long has died.
STALE_S = 5.0
# After this long no frontend is left that could resume: the model is not served any more.
ABANDONED_S = 600.0
PRUNE_S = 30.0
# Runs of a response whose frontends may die before it is given up.
MAX_ATTEMPTS = 4

INTERRUPTED = "The frontend that ran this response has ended."


class StoreMaintenance:
    """The periodic tasks of one frontend on the store."""

    def __init__(
        self,
        context: Context,
        store: ResponseStore,
        conversations: ConversationStore,
        ownership: ResponseOwnership,
        runner: ResponseRunner,
        servers: Sequence[ToolServer],
    ) -> None:
        self._context = context
        self._store = store
        self._conversations = conversations
        self._ownership = ownership
        self._runner = runner
        self._servers = servers
        self._tasks: list[asyncio.Task[None]] = []
        self._fingerprints = fingerprints(context)
        # Responses being resumed, by id.
        self._resuming: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Start the tasks; the process ends if one fails."""
        self._tasks = [
            spawn_critical(self._flush_loop()),
            spawn_critical(self._heartbeat_loop()),
            spawn_critical(self._prune_loop()),
        ]

    async def stop(self) -> None:
        """Stop the tasks and leave running responses to other frontends."""
        tasks = [*self._tasks, *self._resuming.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._runner.stop()

    async def _flush_loop(self) -> None:
        while True:
            await self._runner.changed.wait()
            self._runner.changed.clear()
            try:
                await self._runner.flush()
            except StoreUnavailable:
                self._runner.changed.set()
                await asyncio.sleep(HEARTBEAT_S)
            await asyncio.sleep(FLUSH_S)

    async def _heartbeat_loop(self) -> None:
        """Renew the heartbeats of responses run here, and take over those of dead frontends."""
        takeovers_from = 0.0
        while True:
            await asyncio.sleep(HEARTBEAT_S * random.uniform(0.8, 1.2))
            try:
                await self._renew_heartbeats()
                if time.monotonic() >= takeovers_from:
                    await self._take_over()
            except StoreUnavailable:  # it has been logged
                # No frontend could renew its heartbeats: allow the time for it.
                takeovers_from = time.monotonic() + STALE_S

    async def _take_over(self) -> None:
        taken = await self._ownership.take_over(
            self._runner.owner, STALE_S, self._fingerprints, ABANDONED_S
        )
        for stored in taken:
            self._resuming[stored.body["id"]] = asyncio.create_task(self._resume_or_fail(stored))

    async def _renew_heartbeats(self) -> None:
        running = self._runner.running | set(self._resuming)
        if not running:
            return
        for response_id in running - await self._ownership.renew_heartbeats(
            self._runner.owner, running
        ):
            self._runner.lose(response_id)
            if (task := self._resuming.get(response_id)) is not None:
                task.cancel()

    async def _prune_loop(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_S * random.uniform(0.5, 1.5))
            with contextlib.suppress(StoreUnavailable):
                can_tell_ages = await self._store.can_tell_ages()
                await self._store.prune(can_tell_ages)
                await self._conversations.prune(can_tell_ages)

    # Takeover

    async def _resume_or_fail(self, stored: StoredResponse) -> None:
        response_id = stored.body["id"]
        try:
            if not stored.background:
                raise InternalError(INTERRUPTED)
            if stored.fingerprint not in self._fingerprints:
                raise InternalError("The model that ran this response is not served any more.")
            if stored.attempts > MAX_ATTEMPTS:
                raise InternalError("The frontends that ran this response have ended.")
            log.warning("resuming response %s, whose frontend has ended", response_id)
            await self._resume(stored)
        except StoreUnavailable:
            return  # its heartbeat will be stale again
        except Exception as error:
            with contextlib.suppress(StoreUnavailable):
                await self._fail(stored, api_error(error))
        finally:
            self._resuming.pop(response_id, None)

    async def _resume(self, stored: StoredResponse) -> None:
        """Run a response again from its journal. Raises ApiError if that is impossible."""
        tenant, key_name = stored.tenant, stored.job.get("key", "")
        principal = restore_principal(self._context.keys, tenant, key_name)
        earlier: Sequence[Item] = ()
        if stored.previous_id is not None:
            earlier = await self._store.conversation(stored.previous_id, tenant)
        elif (conversation_id := stored.job["request"].get("conversation")) is not None:
            end = stored.job["conversation_end"]
            earlier, _ = await conversation_items(self._conversations, tenant, conversation_id, end)
        job = Job.from_stored(stored, earlier, principal)
        entries, events, batches = await self._ownership.journal(job.response_id)
        live = LiveResponse(job, Journal(entries), base=events, batches=batches)
        run = self._runner.new_run(live, read_tools(job.request, self._servers), was_taken=True)
        try:
            await run.prepare()
        except BaseException:
            run.close()
            raise
        self._runner.resume(live, run)

    async def _fail(self, stored: StoredResponse, error: ApiError) -> None:
        """Store that a response has failed."""
        body = with_status(stored.body, FAILED, error=error)
        _, first, _ = await self._ownership.journal(body["id"])
        events: list[str] = []
        try:
            EventWriter(events.append, first).lifecycle(FAILED, body)
        except ValueError as invalid:  # the response must end all the same
            log.error("cannot write the terminal event of a response", exc_info=invalid)
        batch = EventBatch(body["id"], first, events, ())
        await self._ownership.finish(self._runner.owner, batch, body)
