"""Build the response object in each of its statuses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from headrace.frontend.errors import ApiError, BadRequest, TooManyRequests
from headrace.frontend.responses.request.requested_tools import RequestedTools
from headrace.frontend.responses.request.tool_choice import read_tool_choice
from headrace.frontend.schemas.responses import Item, ResponsesRequest
from headrace.protocol.text import TextInfo

ResponseBody = dict[str, Any]

ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
QUEUED: Final = "queued"
IN_PROGRESS: Final = "in_progress"
COMPLETED: Final = "completed"
INCOMPLETE: Final = "incomplete"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
ACTIVE: tuple[ResponseStatus, ...] = (QUEUED, IN_PROGRESS)


class TurnUsage(NamedTuple):
    """The tokens of one turn of the model. cached, reasoning: of the input, of the output."""

    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int


@dataclass(slots=True)
class ResponseUsage:
    """The tokens of a response, turn by turn."""

    turns: list[TurnUsage] = field(default_factory=list)

    @property
    def output_tokens(self) -> int:
        return sum(turn.output_tokens for turn in self.turns)

    def to_json(self) -> dict[str, Any]:
        """Return `usage` of the response; there must be a turn."""
        columns = [list(column) for column in zip(*self.turns, strict=True)]
        inputs, cached, outputs, reasoning = columns
        has_turns = len(self.turns) > 1
        return {
            "input_tokens": sum(inputs),
            "input_tokens_details": {
                "cached_tokens": sum(cached),
                "cache_write_tokens": 0,
                "input_tokens_per_turn": inputs if has_turns else [],
                "cached_tokens_per_turn": cached if has_turns else [],
            },
            "output_tokens": sum(outputs),
            "output_tokens_details": {
                "reasoning_tokens": sum(reasoning),
                "tool_output_tokens": 0,
                "output_tokens_per_turn": outputs if has_turns else [],
                "tool_output_tokens_per_turn": [],
            },
            "total_tokens": sum(inputs) + sum(outputs),
        }


def new_body(
    response_id: str,
    created_at: int,
    request: ResponsesRequest,
    model: str,
    info: TextInfo,
    tools: RequestedTools,
) -> ResponseBody:
    """Return a response as it is created."""
    has_tools = bool(tools.echo or tools.client)

    def sampling_value(name: str, default: float) -> float:
        value = getattr(request, name)
        return value if value is not None else info.generation_defaults.get(name, default)

    conversation = {}
    if request.conversation is not None:
        conversation = {"conversation": {"id": request.conversation}}
    return {
        **conversation,
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": QUEUED if request.background else IN_PROGRESS,
        "background": bool(request.background),
        "incomplete_details": None,
        "instructions": request.instructions,
        "metadata": request.metadata,
        "model": model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "temperature": sampling_value("temperature", 1.0),
        "top_p": sampling_value("top_p", 1.0),
        "presence_penalty": sampling_value("presence_penalty", 0.0),
        "frequency_penalty": sampling_value("frequency_penalty", 0.0),
        "tool_choice": read_tool_choice(request.tool_choice) if has_tools else "none",
        "tools": list(tools.echo),
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "previous_response_id": request.previous_response_id,
        "prompt": None,
        "reasoning": _dump(request.reasoning),
        "text": _dump(request.text),
        "service_tier": request.service_tier or "auto",
        "top_logprobs": request.top_logprobs,
        "truncation": request.truncation or "disabled",
        "usage": None,
        "user": request.user,
    }


def _dump(model: Any) -> Any:
    return None if model is None else model.model_dump(by_alias=True, exclude_unset=True)


def with_status(
    body: Mapping[str, Any],
    status: ResponseStatus,
    output: Sequence[Item] = (),
    usage: ResponseUsage | None = None,
    error: Exception | None = None,
) -> ResponseBody:
    """Return a copy of a response with another status. error: why it has failed."""
    changed: ResponseBody = {**body, "status": status, "output": list(output)}
    if usage is not None and usage.turns:
        changed["usage"] = usage.to_json()
    if status == INCOMPLETE:
        changed["incomplete_details"] = {"reason": "max_output_tokens"}
    if isinstance(error, ApiError):
        changed["error"] = {"code": _error_code(error), "message": error.message}
    return changed


def _error_code(error: ApiError) -> str:
    if isinstance(error, BadRequest):
        return "invalid_prompt"
    return "rate_limit_exceeded" if isinstance(error, TooManyRequests) else "server_error"
