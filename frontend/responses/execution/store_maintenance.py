"""Keeps the store up to date: what runs here, what others have left, what is to go.

While a response runs, its owner stores what has been added every few milliseconds and says once a
second that it lives. Who has not said so for a while has died: its background responses are gone on
with by whoever finds them first.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Sequence

from headrace.frontend.context import Context
from headrace.frontend.critical_task import create_vital_task
from headrace.frontend.errors import ApiError, InternalError
from headrace.frontend.middleware.errors import api_error
from headrace.frontend.responses.execution.job import Job
from headrace.frontend.responses.execution.live_response import LiveResponse
from headrace.frontend.responses.execution.response_runner import ResponseRunner
from headrace.frontend.responses.output.event_writer import EventWriter
from headrace.frontend.responses.output.response_body import FAILED, with_status
from headrace.frontend.responses.request.requested_tools import read_tools
from headrace.frontend.responses.store.database import StoreUnavailable
from headrace.frontend.responses.store.fingerprint import fingerprints
from headrace.frontend.responses.store.journal import Journal
from headrace.frontend.responses.store.ownership import ResponseOwnership
from headrace.frontend.responses.store.response_store import ResponseStore
from headrace.frontend.responses.store.rows import EventBatch, StoredResponse
from headrace.frontend.responses.tools.interface import ToolServer
from headrace.frontend.schemas.responses import Item

log = logging.getLogger(__name__)

FLUSH_S = 0.05
BEAT_S = 1.0
# So long without a sign of life is death.
STALE_S = 5.0
# So long after that, nobody is left who could go on: its model is not served any more.
ABANDONED_S = 600.0
PRUNE_S = 30.0
# Frontends that may die of a response before it is given up.
MAX_ATTEMPTS = 4

INTERRUPTED = "The frontend that ran this response has ended."


class StoreMaintenance:
    """Of one frontend."""

    def __init__(
        self,
        context: Context,
        store: ResponseStore,
        ownership: ResponseOwnership,
        runner: ResponseRunner,
        servers: Sequence[ToolServer],
    ) -> None:
        self._context = context
        self._store = store
        self._ownership = ownership
        self._runner = runner
        self._servers = servers
        self._tasks: list[asyncio.Task[None]] = []
        self._fingerprints = fingerprints(context)
        # What is being begun again, by the response's id.
        self._taken: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        self._tasks = [
            create_vital_task(self._flush()),
            create_vital_task(self._tend()),
            create_vital_task(self._prune()),
        ]

    async def stop(self) -> None:
        tasks = [*self._tasks, *self._taken.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._runner.stop()

    async def _flush(self) -> None:
        while True:
            await self._runner.changed.wait()
            self._runner.changed.clear()
            try:
                await self._runner.flush()
            except StoreUnavailable:
                self._runner.changed.set()
                await asyncio.sleep(BEAT_S)
            await asyncio.sleep(FLUSH_S)

    async def _tend(self) -> None:
        """Say that this frontend lives, and look for those that do not."""
        patient_until = 0.0
        while True:
            await asyncio.sleep(BEAT_S * random.uniform(0.8, 1.2))
            try:
                await self._beat()
                if time.monotonic() >= patient_until:
                    await self._take_over()
            except StoreUnavailable:  # it has been logged
                # Nobody could say that they live: they are to have the time for it.
                patient_until = time.monotonic() + STALE_S

    async def _take_over(self) -> None:
        taken = await self._ownership.take_over(
            self._runner.owner, STALE_S, self._fingerprints, ABANDONED_S
        )
        for stored in taken:
            self._taken[stored.body["id"]] = asyncio.create_task(self._go_on(stored))

    async def _beat(self) -> None:
        running = self._runner.running | set(self._taken)
        if not running:
            return
        for response_id in running - await self._ownership.renew_heartbeats(
            self._runner.owner, running
        ):
            self._runner.drop(response_id)
            if (task := self._taken.get(response_id)) is not None:
                task.cancel()

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_S * random.uniform(0.5, 1.5))
            with contextlib.suppress(StoreUnavailable):
                await self._store.prune()

    # Go on with what others have left

    async def _go_on(self, stored: StoredResponse) -> None:
        response_id = stored.body["id"]
        try:
            if not stored.background:
                raise InternalError(INTERRUPTED)
            if stored.fingerprint not in self._fingerprints:
                raise InternalError("The model that ran this response is not served any more.")
            if stored.attempts > MAX_ATTEMPTS:
                raise InternalError("The frontends that ran this response have ended.")
            log.warning("going on with %s, which its frontend has left", response_id)
            await self._resume(stored)
        except StoreUnavailable:
            return  # it will be stale again
        except Exception as error:
            with contextlib.suppress(StoreUnavailable):
                await self._give_up(stored, api_error(error))
        finally:
            self._taken.pop(response_id, None)

    async def _resume(self, stored: StoredResponse) -> None:
        """Run it again from its journal. ApiError if that cannot be."""
        earlier: Sequence[Item] = ()
        if stored.previous_id is not None:
            earlier = await self._store.conversation(stored.previous_id)
        job = Job.read(stored, earlier)
        entries, events, batches = await self._ownership.journal(job.response_id)
        live = LiveResponse(job, Journal(entries), base=events, batches=batches)
        run = self._runner.new_run(live, read_tools(job.request, self._servers))
        try:
            await run.prepare()
        except BaseException:
            run.close()
            raise
        self._runner.go_on(live, run)

    async def _give_up(self, stored: StoredResponse, error: ApiError) -> None:
        body = with_status(stored.body, FAILED, error=error)
        _, first, _ = await self._ownership.journal(body["id"])
        told: list[str] = []
        try:
            EventWriter(told.append, first).lifecycle(FAILED, body)
        except ValueError as untold:  # then it ends without a word, but it ends
            log.error("the end of a response cannot be told of", exc_info=untold)
        await self._ownership.finish(
            self._runner.owner, EventBatch(body["id"], first, told, ()), body
        )
