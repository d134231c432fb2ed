"""Implement the routes of the Responses API."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from headrace.frontend.context import Context
from headrace.frontend.errors import BadRequest
from headrace.frontend.http.parsing import ignore_parts
from headrace.frontend.middleware import request_scope
from headrace.frontend.middleware.deadline import current_deadline
from headrace.frontend.responses.compaction import compacted, summary_request
from headrace.frontend.responses.conversations import Conversations
from headrace.frontend.responses.execution.event_streams import EventStreams
from headrace.frontend.responses.execution.job import Job
from headrace.frontend.responses.execution.live_response import LiveResponse
from headrace.frontend.responses.execution.replay_events import replay_events
from headrace.frontend.responses.execution.response_run import ResponseRun
from headrace.frontend.responses.execution.response_runner import ResponseRunner
from headrace.frontend.responses.execution.store_maintenance import StoreMaintenance
from headrace.frontend.responses.input_tokens import count_input_tokens
from headrace.frontend.responses.output.ids import is_response_id, new_response_id
from headrace.frontend.responses.output.response_body import ResponseBody, new_body
from headrace.frontend.responses.request.requested_tools import RequestedTools, read_tools
from headrace.frontend.responses.request_items import (
    RequestItems,
    ResponseNotFound,
    gather_items,
    stored_response,
)
from headrace.frontend.responses.store.conversation_store import ConversationStore
from headrace.frontend.responses.store.fingerprint import fingerprint
from headrace.frontend.responses.store.journal import Journal
from headrace.frontend.responses.store.ownership import ResponseOwnership
from headrace.frontend.responses.store.response_store import ResponseStore
from headrace.frontend.responses.tools.tool_servers import configured_servers
from headrace.frontend.schemas.responses import CompactionRequest, Item, ResponsesRequest
from headrace.frontend.store.database import Database


class ResponsesService:
    """Creates, runs, stores and streams responses; needs `start` before use and `stop` after it."""

    def __init__(self, context: Context) -> None:
        config = context.config
        self._context = context
        self._database = Database(config.response_store)
        self._store = ResponseStore(
            self._database, config.response_store_max_age_s, config.response_store_max_count
        )
        self._conversation_store = ConversationStore(
            self._database, config.response_store_max_age_s, config.response_store_max_count
        )
        self.conversations = Conversations(self._conversation_store)
        self._ownership = ResponseOwnership(self._database)
        self._event_streams = EventStreams(
            self._store, self._ownership, config.sse_keep_alive_interval_s
        )
        self._servers = configured_servers(config.tool_server)
        self._runner = ResponseRunner(
            context, self._store, self._conversation_store, self._ownership
        )
        self._maintenance = StoreMaintenance(
            context,
            self._store,
            self._conversation_store,
            self._ownership,
            self._runner,
            self._servers,
        )

    def start(self) -> None:
        """Start to maintain the store."""
        self._maintenance.start()

    async def stop(self) -> None:
        """Leave running responses to other frontends and close the store."""
        await self._maintenance.stop()
        await self._database.finish()

    # Create

    async def create(self, request: ResponsesRequest) -> ResponseBody | AsyncIterator[str]:
        """Create a response; return it, or its events if it is streamed.

        Raises ApiError if it cannot be created.
        """
        if request.background and not request.is_stored:
            raise BadRequest("background needs store to be true.", "background")
        tools = read_tools(request, self._servers)
        job = await self._new_job(request, tools)
        if not (request.background or request.stream):
            return await self._run_unstreamed(job, tools)
        live = LiveResponse(job, Journal())
        run = self._runner.new_run(live, tools)
        if not request.background:
            run.deadline = self._deadline()
            await self._runner.start_stream(live, run)
            return self._event_streams.follow_live(live, 0)
        await self._runner.start_background(live, run)
        return self._event_streams.follow_live(live, 0) if request.stream else job.body

    async def _run_unstreamed(self, job: Job, tools: RequestedTools) -> ResponseBody:
        run = ResponseRun(self._context, job, tools, Journal(), None)
        run.deadline = self._deadline()
        request_scope.current().cleanups.append(run.close)
        await run.prepare()
        run.begin()
        body = await run.run()
        if job.request.is_stored:
            await self._store.create(job, None, body)
        elif job.request.conversation is not None:
            await self._conversation_store.append(
                job.request.conversation, job.principal.tenant, job.new_items(body)
            )
        return body

    def _deadline(self) -> float | None:
        return current_deadline(self._context.config.request_timeout_s)

    async def _new_job(self, request: ResponsesRequest, tools: RequestedTools) -> Job:
        model = self._context.model(request.model, "generate")
        response_id = new_response_id()
        items = await self._gather_items(request, response_id)
        ignore_parts(tools.ignored)
        return Job(
            body=new_body(
                response_id, int(time.time()), request, model.name, model.tokenizer.info, tools
            ),
            request=request,
            earlier=items.earlier,
            inputs=items.inputs,
            seed=model.seeds.next() if request.seed is None else request.seed,
            fingerprint=fingerprint(self._context, model),
            conversation_end=items.conversation_end,
            principal=self._context.principal,
        )

    async def compact(self, request: CompactionRequest) -> dict[str, Any]:
        """Return a conversation as its user's messages and a summary by the model.

        Raises ApiError if it cannot be summed up.
        """
        model = self._context.model(request.model, "generate")
        if not (request.input or request.previous_response_id):
            raise BadRequest("input: must not be empty.", "input")
        asked = summary_request(request, model.tokenizer.info.max_model_len)
        tools = read_tools(asked, self._servers)
        job = await self._new_job(asked, tools)
        return compacted(job, await self._run_unstreamed(job, tools))

    async def _gather_items(self, request: ResponsesRequest, response_id: str) -> RequestItems:
        stores = self._store, self._conversation_store
        return await gather_items(*stores, self._tenant, request, response_id)

    @property
    def _tenant(self) -> str:
        """The tenant of the current HTTP request."""
        return self._context.principal.tenant

    async def count_input_tokens(self, request: ResponsesRequest) -> dict[str, Any]:
        """Return how many tokens the input of a response is.

        Raises ApiError if the response could not be created.
        """
        tools = read_tools(request, self._servers)
        items = await self._gather_items(request, new_response_id())
        ignore_parts(tools.ignored)
        count = await count_input_tokens(self._context, request, tools, items)
        return {"object": "response.input_tokens", "input_tokens": count}

    # Stored responses

    async def get(self, response_id: str) -> ResponseBody:
        """Return a stored response. Raises ResponseNotFound if there is none."""
        return (await stored_response(self._store, self._tenant, response_id)).body

    async def input_items(self, response_id: str) -> list[Item]:
        """Return the input items of a stored response. Raises ResponseNotFound if there is none."""
        return (await stored_response(self._store, self._tenant, response_id)).inputs

    async def cancel(self, response_id: str) -> ResponseBody:
        """Cancel a background response and return it; one that has ended stays as it is.

        Raises BadRequest or ResponseNotFound if it is not a stored background response.
        """
        stored = await stored_response(self._store, self._tenant, response_id)
        if not stored.background:
            raise BadRequest("Only background responses can be cancelled.", "response_id")
        cancelled = await self._store.cancel(response_id, self._tenant)
        if cancelled is None:
            raise ResponseNotFound
        self._runner.lose(response_id)
        return cancelled.body

    async def delete(self, response_id: str) -> dict[str, Any]:
        """Delete a stored response and stop its run. Raises ResponseNotFound if there is none."""
        is_id = is_response_id(response_id)
        found = await self._store.delete(response_id, self._tenant) if is_id else False
        if not found:
            raise ResponseNotFound
        self._runner.lose(response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    # Events

    async def events(self, response_id: str, first: int) -> AsyncIterator[str]:
        """Stream the events of a stored response, from number `first` to its end.

        Raises ResponseNotFound if there is none.
        """
        stored = await stored_response(self._store, self._tenant, response_id)
        live = self._runner.live(response_id)
        if live is not None and first >= live.base:
            return self._event_streams.follow_live(live, first)
        events, _ = await self._ownership.events(response_id, 0)
        if not events and not stored.is_active:
            return _yield_from(await asyncio.to_thread(replay_events, stored.body), first)
        return self._event_streams.follow_stored(response_id, self._tenant, first)


async def _yield_from(events: list[str], first: int) -> AsyncIterator[str]:
    yield "".join(events[first:])
