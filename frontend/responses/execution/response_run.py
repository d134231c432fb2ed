"""A response under way: turns of the model, and between them the tools that the server runs."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from headrace.frontend.chat.chat_run import ChatRun, MessageDelta
from headrace.frontend.chat.start_chat import start_chat
from headrace.frontend.context import Context
from headrace.frontend.errors import ApiError, BadRequest
from headrace.frontend.generation.start_generation import Cleanups
from headrace.frontend.middleware import request_scope
from headrace.frontend.openai_api.logprobs import TokenNames, chat_logprobs
from headrace.frontend.process.drain import Drain
from headrace.frontend.process.worker_thread import MANY_PARTS, beside
from headrace.frontend.responses.execution.job import Job
from headrace.frontend.responses.output.event_writer import EventSink, EventWriter
from headrace.frontend.responses.output.output_writer import OutputWriter, ServerToolCall
from headrace.frontend.responses.output.response_body import (
    CANCELLED,
    COMPLETED,
    FAILED,
    IN_PROGRESS,
    INCOMPLETE,
    ResponseBody,
    ResponseUsage,
    with_status,
)
from headrace.frontend.responses.request.chat_request import chat_request, renamed
from headrace.frontend.responses.request.requested_tools import RequestedTools, chat_tools
from headrace.frontend.responses.request.tool_choice import chat_tool_choice
from headrace.frontend.responses.server_tools import Result, ServerTools
from headrace.frontend.responses.store.journal import Journal, JournaledPool

# Turns of the model in one response, whatever the request allows.
MAX_TURNS = 32


class ResponseRun:
    """One response. `prepare`, then `begin`, then `run`, then `tell` what has become of it.

    sink: takes its events. journal: what an earlier run of it has left. patience_s: how long it
    waits for a worker that takes it, or goes on with it.
    """

    def __init__(
        self,
        context: Context,
        job: Job,
        tools: RequestedTools,
        journal: Journal,
        sink: EventSink | None,
        patience_s: float = 0.0,
    ) -> None:
        self._pool = pool = JournaledPool(context.pool, journal, patience_s)
        self._model = context.model(job.request.model)
        self.cleanups: Cleanups = []
        self.deadline: float | None = None  # of its HTTP request, if that waits for it
        # What runs in the background is not interrupted: another frontend goes on with it.
        drain = Drain() if job.request.background else context.drain
        abortable = context.abortable.named(job.response_id)
        self._context = replace(context, pool=pool, drain=drain, abortable=abortable)
        self._job = job
        self._requested = tools
        self._journal = journal
        self._events = EventWriter(sink)
        self._usage = ResponseUsage()
        self._names = TokenNames(self._model.tokenizer, as_ids=False)
        self._server_calls = 0
        self._interruption: ApiError | None = None

    async def prepare(self) -> None:
        """Everything up to the first token. ApiError if it cannot be run."""
        self._context, held = self._context.keep(self._model)
        abortable, scope = self._context.abortable, request_scope.current_or_none()
        self.cleanups += [
            *held,
            abortable.watch(scope, self._model.group.name, self._interrupt),
        ]
        self._tools = ServerTools(self._requested, self._journal)
        await self._tools.ask()
        choice = self._job.request.tool_choice
        offered = chat_tools(self._requested, self._tools.listed)
        self._choice, self._offered = chat_tool_choice(choice, offered)
        self._writer = OutputWriter(
            self._job.response_id, self._events, self._tools.labels, self._call_id
        )
        self._chat = await self._start_turn()

    def _interrupt(self, error: ApiError) -> None:
        """It is not to go on after the turn that it is in, which is interrupted by itself."""
        self._interruption = error

    def _call_id(self, index: int, given: str) -> str:
        return str(self._journal.value(f"call_id/{index}", given))

    def begin(self) -> None:
        """Tell that it has begun."""
        body = self._job.body
        self._events.lifecycle("created", body)
        if self._job.request.background:
            self._events.lifecycle("queued", body)
        self._events.lifecycle("in_progress", with_status(body, IN_PROGRESS))
        for label, specs in self._tools.listed.items():
            shown = [
                {"name": name, "description": description, "input_schema": schema}
                for name, description, schema in specs
            ]
            self._writer.list_tools(label, shown)

    async def run(self) -> ResponseBody:
        """The finished response. Raises what the generation does."""
        for turn in range(MAX_TURNS):
            if turn:
                self._chat = await self._start_turn()
            reason = await self._take_turn()
            calls = self._writer.end_turn(is_cut=reason == "length")
            if reason == "length":
                return self._ended(INCOMPLETE)
            for call in calls:
                await self._run_tool(call)
            if not calls or self._writer.asks_client:
                break
            if self._left() == 0:
                return self._ended(INCOMPLETE)
        return self._ended(COMPLETED)

    # Turns

    async def _start_turn(self) -> ChatRun:
        if self._interruption is not None:
            raise self._interruption
        self._pool.turn = len(self._usage.turns)
        if not self._usage.turns:
            return await self._start_chat(self._left())
        try:
            return await self._start_chat(self._left())
        except BadRequest as error:
            # What is left of the response's tokens may be more than what is left of the context;
            # and a model that is free to call tools may need what one that has to does not.
            if error.param == "tool_choice":
                self._choice = "none"
            elif error.param != "max_output_tokens":
                raise
            return await self._start_chat(None)

    async def _start_chat(self, max_tokens: int | None) -> ChatRun:
        items = [*self._job.earlier, *self._job.inputs, *self._writer.output]
        translate = partial(
            chat_request,
            self._job.request,
            items,
            tools=self._offered,
            tool_choice=self._tool_choice(),
            max_tokens=max_tokens,
            seed=self._job.seed,
            max_model_len=self._model.tokenizer.info.max_model_len,
        )
        request = await beside(translate, len(items) > MANY_PARTS)
        try:
            return await start_chat(
                self._context, request, cleanups=self.cleanups, deadline=self.deadline
            )
        except ApiError as error:
            raise renamed(error) from error

    def _tool_choice(self) -> Any:
        """A call that was required has been made by the end of the first turn."""
        limit = self._job.request.max_tool_calls
        if limit is not None and self._server_calls >= limit and self._tools.labels:
            return "none"
        return self._choice if not self._usage.turns or self._choice == "none" else "auto"

    def _left(self) -> int | None:
        """Output tokens that the request still allows."""
        limit = self._job.request.max_output_tokens
        return None if limit is None else max(0, limit - self._usage.output_tokens)

    async def _take_turn(self) -> str:
        """Write what the model says in one turn; returns why it has ended."""
        reason = None
        async for _, delta in self._chat.deltas():
            self._writer.add(delta.part, self._logprobs(delta))
            reason = delta.finish_reason
        choice = self._chat.generation.choices[0]
        tokens = len(self._chat.prompt.token_ids)
        reasoning = self._chat.reasoning_tokens(choice)
        self._usage.turns.append(
            (tokens, choice.cached_tokens, choice.completion_tokens, reasoning)
        )
        return reason or ""

    def _logprobs(self, delta: MessageDelta) -> Sequence[dict[str, Any]]:
        if not self._job.request.has_logprobs:
            return ()
        return list(chat_logprobs(self._names, delta.delta.logprobs)["content"])

    # Tools

    async def _run_tool(self, call: ServerToolCall) -> None:
        self._server_calls += 1
        limit = self._job.request.max_tool_calls
        if limit is not None and self._server_calls > limit:
            result: Result = (None, f"not run: only {limit} calls of tools are allowed")
        else:
            result = await self._tools.call(call)
        self._writer.end_server_call(call.index, *result)

    # The end

    def _ended(self, status: str, error: ApiError | None = None) -> ResponseBody:
        return with_status(self._job.body, status, self._writer.output, self._usage, error)

    def failed(self, error: ApiError) -> ResponseBody:
        """It cannot go on."""
        self._writer.abandon()
        return self._ended(FAILED, error)

    def cancelled(self) -> ResponseBody:
        """It is not to go on."""
        self._writer.abandon()
        return self._ended(CANCELLED)

    def tell(self, body: ResponseBody) -> None:
        """The last event: how it has ended."""
        self._events.lifecycle(body["status"], body)

    def close(self) -> None:
        """Free what it holds in the pool; harmless when it has ended."""
        for cleanup in self.cleanups:
            cleanup()
