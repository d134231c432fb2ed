"""Run a response: turns of the model, with the tools that the server runs in between."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from headrace.frontend.chat.chat_run import ChatRun, MessageDelta
from headrace.frontend.chat.start_chat import start_chat
from headrace.frontend.context import Context
from headrace.frontend.errors import ApiError, BadRequest
from headrace.frontend.generation.request_times import RequestTimes
from headrace.frontend.generation.start_generation import Cleanups
from headrace.frontend.middleware import request_scope
from headrace.frontend.openai_api.logprobs import TokenNames, chat_logprobs
from headrace.frontend.process.drain import Drain
from headrace.frontend.process.worker_thread import MANY_PARTS, run_in_worker_thread
from headrace.frontend.responses.execution.job import Job
from headrace.frontend.responses.offered_tools import called_tools, offered_tools
from headrace.frontend.responses.output.event_writer import EventSink, EventWriter
from headrace.frontend.responses.output.output_writer import OutputWriter, ServerToolCall
from headrace.frontend.responses.output.raw_messages import RawMessages
from headrace.frontend.responses.output.response_body import (
    CANCELLED,
    COMPLETED,
    FAILED,
    IN_PROGRESS,
    INCOMPLETE,
    ResponseBody,
    ResponseStatus,
    ResponseUsage,
    TurnUsage,
    with_status,
)
from headrace.frontend.responses.request.chat_request import chat_request, rename_fields
from headrace.frontend.responses.request.requested_tools import RequestedTools
from headrace.frontend.responses.request.tool_choice import chat_tool_choice
from headrace.frontend.responses.server_tools import ServerTools, ToolResult
from headrace.frontend.responses.store.journal import Journal, JournaledPool
from headrace.frontend.schemas.responses import INCLUDE_REASONING

# Turns of the model in one response, whatever the request allows.
MAX_TURNS = 32


class ResponseRun:
    """The run of one response; call `prepare`, `begin`, `run` and `emit_end` in this order.

    journal: what an earlier run has recorded; empty for a new response.
    sink: receives the events.
    patience_s: how long to wait for a worker that accepts the request, or continues it.
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
        context = replace(context, acting_for=job.principal)
        self._model = context.model(job.request.model, "generate")
        self.cleanups: Cleanups = []
        self.deadline: float | None = (
            None  # of the HTTP request that waits for the response, if any
        )
        # A background response is not interrupted by draining: another frontend resumes it.
        drain = Drain() if job.request.background else context.drain
        abortable = context.abortable.with_name(job.response_id)
        self._context = replace(context, pool=pool, drain=drain, abortable=abortable)
        self._job = job
        self._requested = tools
        self._journal = journal
        self._events = EventWriter(sink)
        self._usage = ResponseUsage()
        self._times: RequestTimes | None = None
        self._raw = RawMessages() if job.request.enable_response_messages else None
        self._names = TokenNames(self._model.tokenizer, as_ids=False)
        self._server_call_count = 0
        self._interruption: ApiError | None = None

    async def prepare(self) -> None:
        """List the tools and start the first turn. Raises ApiError if the request cannot be run."""
        self._context, held = self._context.keep(self._model)
        abortable, scope = self._context.abortable, request_scope.current_or_none()
        self.cleanups += [
            *held,
            abortable.watch(scope, self._model.group.name, self._interrupt),
        ]
        self._tools = ServerTools(self._requested, self._journal)
        await self._tools.list_all()
        offered = offered_tools(self._requested, self._tools)
        choice = self._job.request.tool_choice
        self._tool_choice, self._offered_tools = chat_tool_choice(choice, offered)
        called = called_tools(self._requested, self._tools)
        self._writer = OutputWriter(
            self._job.response_id,
            self._events,
            called,
            self._call_id,
            seals_reasoning=INCLUDE_REASONING in (self._job.request.include or ()),
        )
        self._chat = await self._start_turn()

    def _interrupt(self, error: ApiError) -> None:
        """Stop the run after the current turn; the generation is interrupted by itself."""
        self._interruption = error

    def _call_id(self, index: int, proposed: str) -> str:
        return str(self._journal.get_or_record(f"call_id/{index}", proposed))

    def begin(self) -> None:
        """Emit the events that begin the response."""
        body = self._job.body
        self._events.lifecycle("created", body)
        if self._job.request.background:
            self._events.lifecycle("queued", body)
        self._events.lifecycle("in_progress", with_status(body, IN_PROGRESS))
        for label, specs in self._tools.listed.items():
            tools = [
                {"name": name, "description": description, "input_schema": schema}
                for name, description, schema in specs
            ]
            self._writer.list_tools(label, tools)

    async def run(self) -> ResponseBody:
        """Return the finished response. Raises the generation's errors."""
        for turn in range(MAX_TURNS):
            if turn:
                self._chat = await self._start_turn()
            reason = await self._run_turn()
            calls = self._writer.end_turn(is_truncated=reason == "length")
            if reason == "length":
                return self._end_body(INCOMPLETE)
            for call in calls:
                await self._run_tool(call)
            if not calls or self._writer.has_client_calls:
                break
            if self._tokens_left() == 0:
                return self._end_body(INCOMPLETE)
        return self._end_body(COMPLETED)

    # Turns

    async def _start_turn(self) -> ChatRun:
        if self._interruption is not None:
            raise self._interruption
        self._pool.turn = len(self._usage.turns)
        if self._usage.turns:  # what has begun is not refused any more
            limits = self._context.rate_limits.not_enforced()
            self._context = replace(self._context, rate_limits=limits)
        if not self._usage.turns:
            return await self._start_chat(self._tokens_left())
        try:
            return await self._start_chat(self._tokens_left())
        except BadRequest as error:
            # max_output_tokens may leave more tokens than the context does; and tool_choice "auto"
            # may need a tool parser, which a required call does not.
            if error.param == "tool_choice":
                self._tool_choice = "none"
            elif error.param != "max_output_tokens":
                raise
            return await self._start_chat(None)

    async def _start_chat(self, max_tokens: int | None) -> ChatRun:
        items = [*self._job.earlier, *self._job.inputs, *self._writer.output]
        translate = partial(
            chat_request,
            self._job.request,
            items,
            tools=self._offered_tools,
            tool_choice=self._turn_tool_choice(),
            max_tokens=max_tokens,
            seed=self._job.seed,
            max_model_len=self._model.tokenizer.info.max_model_len,
        )
        request = await run_in_worker_thread(translate, len(items) > MANY_PARTS)
        try:
            return await start_chat(
                self._context, request, cleanups=self.cleanups, deadline=self.deadline
            )
        except ApiError as error:
            raise rename_fields(error) from error

    def _turn_tool_choice(self) -> Any:
        """Return the tool choice of the next turn; a required call was made in the first turn."""
        limit = self._job.request.max_tool_calls
        if limit is not None and self._server_call_count >= limit and self._tools.labels:
            return "none"
        if self._usage.turns and self._tool_choice != "none":
            return "auto"
        return self._tool_choice

    def _tokens_left(self) -> int | None:
        """Return how many output tokens the request still allows; None if it has no limit."""
        limit = self._job.request.max_output_tokens
        return None if limit is None else max(0, limit - self._usage.output_tokens)

    async def _run_turn(self) -> str:
        """Write the output of one turn; return its finish reason."""
        reason = None
        if self._raw is not None:
            self._raw.begin_turn(self._chat.prompt)
        async for _, delta in self._chat.deltas():
            self._writer.add(delta.part, self._logprobs(delta))
            if self._raw is not None:
                self._raw.add(delta.delta)
            reason = delta.finish_reason
        choice = self._chat.generation.choices[0]
        self._times = choice.times
        tokens = len(self._chat.prompt.token_ids)
        reasoning = self._chat.reasoning_tokens(choice)
        self._usage.turns.append(
            TurnUsage(tokens, choice.cached_tokens, choice.completion_tokens, reasoning)
        )
        return reason or ""

    def _logprobs(self, delta: MessageDelta) -> Sequence[dict[str, Any]]:
        if not self._job.request.has_logprobs:
            return ()
        return list(chat_logprobs(self._names, delta.delta.logprobs)["content"])

    # Tools

    async def _run_tool(self, call: ServerToolCall) -> None:
        self._server_call_count += 1
        limit = self._job.request.max_tool_calls
        if limit is not None and self._server_call_count > limit:
            result: ToolResult = (None, f"not run: only {limit} calls of tools are allowed")
        else:
            result = await self._tools.call(call)
        self._writer.end_server_call(call.index, *result)

    # End

    def _end_body(self, status: ResponseStatus, error: ApiError | None = None) -> ResponseBody:
        body = with_status(self._job.body, status, self._writer.output, self._usage, error)
        if self._times is not None and len(self._usage.turns) == 1:
            body["metrics"] = self._times.report()
        return body if self._raw is None else {**body, **self._raw.to_json()}

    def failed(self, error: ApiError) -> ResponseBody:
        """Close the open items and return the failed response."""
        self._writer.abandon()
        return self._end_body(FAILED, error)

    def cancelled(self) -> ResponseBody:
        """Close the open items and return the cancelled response."""
        self._writer.abandon()
        return self._end_body(CANCELLED)

    def emit_end(self, body: ResponseBody) -> None:
        """Emit the terminal event."""
        self._events.lifecycle(body["status"], body)

    def close(self) -> None:
        """Release the run's resources in the pool; does nothing if it has ended."""
        for cleanup in self.cleanups:
            cleanup()
