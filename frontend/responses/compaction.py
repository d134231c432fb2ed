"""Compact a conversation: the model sums it up, and the summary takes the place of its items."""

from collections.abc import Sequence
from typing import Any

from headrace.frontend.http.parsing import validate
from headrace.frontend.responses.execution.job import Job
from headrace.frontend.responses.output.ids import output_id
from headrace.frontend.responses.output.response_body import ResponseBody
from headrace.frontend.responses.request.conversation import join_text
from headrace.frontend.responses.request.sealed_text import seal
from headrace.frontend.schemas.responses import CompactionRequest, Item, ResponsesRequest

MAX_SUMMARY_TOKENS = 1024

_TASK = (
    "Sum up our conversation so far for somebody who will continue it and cannot read it: what was"
    " asked for, what was done and found, and what is left to do. Write the summary alone."
)


def summary_request(request: CompactionRequest, max_model_len: int) -> ResponsesRequest:
    """Return the request for the summary. Raises ApiError if the given one is invalid.

    Of a conversation that is longer than the context, the end is summed up.
    """
    given = request.input
    items: list[Item] = (
        [{"role": "user", "content": given}] if isinstance(given, str) else given or []
    )
    fields: dict[str, Any] = {
        "model": request.model,
        "input": [*items, {"role": "user", "content": _TASK}],
        "instructions": request.instructions,
        "previous_response_id": request.previous_response_id,
        "max_output_tokens": min(MAX_SUMMARY_TOKENS, max(1, max_model_len // 4)),
        "truncation": "auto",
        "store": False,
    }
    return validate(ResponsesRequest, fields)


def compacted(job: Job, body: ResponseBody) -> dict[str, Any]:
    """Return the compacted conversation: the user's messages, then the summary.

    body: of the response that holds the summary.
    """
    items = [*job.earlier, *job.inputs[:-1]]
    kept = [item for item in items if item["type"] == "message" and item["role"] == "user"]
    summary = {
        "id": output_id(job.response_id, "compaction", len(kept)),
        "type": "compaction",
        "encrypted_content": seal(_text(body["output"])),
    }
    return {
        "id": job.response_id,
        "object": "response.compaction",
        "created_at": body["created_at"],
        "output": [*kept, summary],
        "usage": body["usage"],
    }


def _text(output: Sequence[Item]) -> str:
    return "\n".join(join_text(item) for item in output if item["type"] == "message").strip()
