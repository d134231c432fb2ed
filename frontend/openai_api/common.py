"""Build what the responses of all generating APIs share: head, usage and JSON encoding."""

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headrace.frontend.context import ServedModel
from headrace.frontend.generation.choice import Choice
from headrace.frontend.generation.start_generation import Prompt
from headrace.frontend.middleware import request_scope
from headrace.frontend.schemas.generation import GenerationRequest

# Non-ASCII text stays as it is. The encoder is made once: streams call it for every token.
encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The fields at the top of a response and of each chunk.

    created: seconds since 1970.
    has_details: whether usage shows how many prompt tokens were found in the prefix cache.
    """

    answer_id: str
    created: int
    model: str
    fingerprint: str | None
    has_details: bool = True


def response_head(request: GenerationRequest, model: ServedModel, prefix: str) -> ResponseHead:
    """Return the head of the response to a request; its id holds the client's request_id, if any.

    prefix: of the id, "chatcmpl" or "cmpl".
    """
    return ResponseHead(
        answer_id=request_scope.register_response_id(
            f"{prefix}-{request.request_id or secrets.token_hex(8)}"
        ),
        created=int(time.time()),
        model=model.name,
        fingerprint=model.shown_fingerprint,
        has_details=model.group.serving.enable_prompt_tokens_details,
    )


def request_metrics(choices: Sequence[Choice]) -> dict[str, Any]:
    """Return the field with the times of a request's only choice; {} if they are not reported."""
    times = choices[0].times
    return {"metrics": times.report()} if times is not None and len(choices) == 1 else {}


def count_usage(
    prompts: Sequence[Prompt], choices: Sequence[Choice], head: ResponseHead
) -> dict[str, Any]:
    """Count the tokens of prompts and outputs; a prompt counts once, whatever n is."""
    prompt_tokens = sum(len(prompt.token_ids) for prompt in prompts)
    completion_tokens = sum(choice.completion_tokens for choice in choices)
    cached: dict[int, int] = {}
    for choice in choices:
        cached.setdefault(choice.prompt, choice.cached_tokens)
    details = {"cached_tokens": sum(cached.values())}
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
        "prompt_tokens_details": details if head.has_details else None,
    }
