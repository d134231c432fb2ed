"""Write the results of a batch's lines, in the shape of OpenAI's output and error files."""

import json
from typing import Any

from headrace.frontend.batches.input_lines import BatchLine, LineError
from headrace.frontend.batches.journal import LineResult
from headrace.frontend.batches.line_call import LineAnswer
from headrace.frontend.openai_api.common import encode_json

_NO_TOKENS = (0, 0, 0, 0)


def answered(batch_id: str, line: BatchLine, answer: LineAnswer) -> LineResult:
    """Return the result of a line that has an answer, whether that is an error or not."""
    ok = answer.status == 200
    head = encode_json({"id": _id(batch_id, line.number), "custom_id": line.custom_id})
    status = encode_json({"status_code": answer.status, "request_id": answer.request_id})
    response = f'{status[:-1]},"body":{answer.text}}}'
    text = f'{head[:-1]},"response":{response},"error":null}}'
    return LineResult(line.number, ok, _tokens(answer.text) if ok else _NO_TOKENS, text)


def not_run(batch_id: str, line: BatchLine, code: str, message: str) -> LineResult:
    """Return the result of a line that was not run."""
    return _failed(batch_id, line.number, line.custom_id, code, message)


def unreadable(batch_id: str, error: LineError) -> LineResult:
    """Return the result of a line that could be read when the input was checked, and now cannot."""
    return _failed(batch_id, error.line, None, error.code, error.message)


def _failed(
    batch_id: str, number: int, custom_id: str | None, code: str, message: str
) -> LineResult:
    head = {"id": _id(batch_id, number), "custom_id": custom_id}
    error = {"code": code, "message": message}
    text = encode_json({**head, "response": None, "error": error})
    return LineResult(number, False, _NO_TOKENS, text)


def _id(batch_id: str, number: int) -> str:
    return f"batch_req_{batch_id.removeprefix('batch_')}{number:06x}"


def _tokens(text: str) -> tuple[int, int, int, int]:
    """Return the tokens of an answer: input, cached, output and reasoning."""
    usage = json.loads(text).get("usage") or {}
    given = usage.get("prompt_tokens", usage.get("input_tokens")) or 0
    made = usage.get("completion_tokens", usage.get("output_tokens")) or 0
    before = _details(usage, "prompt_tokens_details", "input_tokens_details")
    after = _details(usage, "completion_tokens_details", "output_tokens_details")
    return given, before.get("cached_tokens") or 0, made, after.get("reasoning_tokens") or 0


def _details(usage: dict[str, Any], *names: str) -> dict[str, Any]:
    return next((usage[name] for name in names if isinstance(usage.get(name), dict)), {})
