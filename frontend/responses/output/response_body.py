"""The response object itself, in every state that it goes through."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.frontend.errors import ApiError, BadRequest, TooBusy
from headrace.frontend.responses.request.tool_choice import read_tool_choice
from headrace.frontend.schemas.responses import Item, ResponsesRequest
from headrace.protocol.text import TextInfo

ResponseBody = dict[str, Any]

QUEUED, IN_PROGRESS = "queued", "in_progress"
COMPLETED, INCOMPLETE, FAILED, CANCELLED = "completed", "incomplete", "failed", "cancelled"
ACTIVE = (QUEUED, IN_PROGRESS)


@dataclass(slots=True)
class ResponseUsage:
    """Tokens, of each turn: in, of them cached, out, of them reasoning."""

    turns: list[tuple[int, int, int, int]] = field(default_factory=list)

    @property
    def output_tokens(self) -> int:
        return sum(turn[2] for turn in self.turns)

    def body(self) -> ResponseBody:
        inputs, cached, outputs, reasoning = [list(each) for each in zip(*self.turns, strict=True)]
        several = len(self.turns) > 1
        return {
            "input_tokens": sum(inputs),
            "input_tokens_details": {
                "cached_tokens": sum(cached),
                "cache_write_tokens": 0,
                "input_tokens_per_turn": inputs if several else [],
                "cached_tokens_per_turn": cached if several else [],
            },
            "output_tokens": sum(outputs),
            "output_tokens_details": {
                "reasoning_tokens": sum(reasoning),
                "tool_output_tokens": 0,
                "output_tokens_per_turn": outputs if several else [],
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
    tools: Sequence[Item],
) -> ResponseBody:
    """A response that has just been asked for. tools: as the answer shows them."""

    def sampled(name: str, default: float) -> float:
        value = getattr(request, name)
        return value if value is not None else info.generation_defaults.get(name, default)

    return {
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
        "temperature": sampled("temperature", 1.0),
        "top_p": sampled("top_p", 1.0),
        "presence_penalty": sampled("presence_penalty", 0.0),
        "frequency_penalty": sampled("frequency_penalty", 0.0),
        "tool_choice": read_tool_choice(request.tool_choice) if tools else "none",
        "tools": list(tools),
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "previous_response_id": request.previous_response_id,
        "prompt": None,
        "reasoning": _plain(request.reasoning),
        "text": _plain(request.text),
        "service_tier": request.service_tier or "auto",
        "top_logprobs": request.top_logprobs,
        "truncation": request.truncation or "disabled",
        "usage": None,
        "user": request.user,
    }


def _plain(model: Any) -> Any:
    return None if model is None else model.model_dump(by_alias=True, exclude_unset=True)


def with_status(
    body: Mapping[str, Any],
    status: str,
    output: Sequence[Item] = (),
    usage: ResponseUsage | None = None,
    error: Exception | None = None,
) -> ResponseBody:
    """A response in another state. error: why it has failed."""
    changed: ResponseBody = {**body, "status": status, "output": list(output)}
    if usage is not None and usage.turns:
        changed["usage"] = usage.body()
    if status == INCOMPLETE:
        changed["incomplete_details"] = {"reason": "max_output_tokens"}
    if isinstance(error, ApiError):
        changed["error"] = {"code": _code(error), "message": error.message}
    return changed


def _code(error: ApiError) -> str:
    if isinstance(error, BadRequest):
        return "invalid_prompt"
    return "rate_limit_exceeded" if isinstance(error, TooBusy) else "server_error"
