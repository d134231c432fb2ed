"""What the answers of all APIs have in common."""

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

# Strings as JSON, non-ASCII text as it is; the encoder is made once, as streams call it per token.
encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """What stands at the top of an answer and of each chunk. created: seconds since 1970.

    has_details: whether usage says how much of the prompt came from the cache.
    """

    answer_id: str
    created: int
    model: str
    fingerprint: str
    has_details: bool = True


def head(request: GenerationRequest, model: ServedModel, prefix: str) -> ResponseHead:
    """The head of the answer to a request. Its id has the client's request_id, if there is one."""
    return ResponseHead(
        answer_id=request_scope.register_response_id(
            f"{prefix}-{request.request_id or secrets.token_hex(8)}"
        ),
        created=int(time.time()),
        model=model.name,
        fingerprint=model.fingerprint,
        has_details=model.group.serving.enable_prompt_tokens_details,
    )


def count_usage(
    prompts: Sequence[Prompt], choices: Sequence[Choice], head: ResponseHead
) -> dict[str, Any]:
    """Tokens in and out. A prompt counts once, however many texts continue it."""
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
