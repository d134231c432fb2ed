"""Serialize the answers of routes that turn texts into vectors."""

import json
import secrets
import sys
import time
from array import array
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
from quart import Response

from headrace.frontend.middleware import request_scope
from headrace.frontend.process.worker_thread import run_in_worker_thread
from headrace.frontend.schemas.pooling.fields import Endianness, NumberFields
from headrace.protocol.pooling import NUMBER_BYTES, NumberFormat
from headrace.protocol.to_frontend import Pooled

OCTETS = "application/octet-stream"
# Numbers that are written off the event loop.
_MANY_NUMBERS = 8192
_CODES = {1: "B", 2: "H", 4: "I"}


class SizedInput(Protocol):
    """A text with its tokens."""

    @property
    def token_ids(self) -> Sequence[int]: ...


class AnswerHead(NamedTuple):
    """The fields at the top of an answer. prompt_tokens: of all texts."""

    answer_id: str
    created: int
    model: str
    prompt_tokens: int


def answer_head(
    prefix: str, request_id: str | None, model: str, inputs: Sequence[SizedInput]
) -> AnswerHead:
    """Return the head of an answer, whose id holds the client's request id, if any."""
    answer_id = request_scope.register_response_id(f"{prefix}-{request_id or secrets.token_hex(8)}")
    tokens = sum(len(each.token_ids) for each in inputs)
    return AnswerHead(answer_id, int(time.time()), model, tokens)


def number_format_of(request: NumberFields) -> NumberFormat:
    """Return the format in which workers must write numbers: in JSON they are plain numbers."""
    return "float32" if request.encoding_format == "float" else request.embed_dtype


async def vectors_response(
    head: AnswerHead,
    request: NumberFields,
    found: Sequence[Pooled],
    item: Callable[[int, Any], dict[str, Any]],
) -> Response:
    """Return the answer with the numbers of all texts, in the form that the request asks for.

    item: makes an item of the answer of its index and its numbers.
    """
    is_long = sum(len(each.data) for each in found) > 4 * _MANY_NUMBERS
    if request.encoding_format in ("bytes", "bytes_only"):
        return _octets(head, request, found)
    texts = _encoded if request.encoding_format == "base64" else _numbers

    def write() -> bytes:
        data = [item(index, texts(each, request.endianness)) for index, each in enumerate(found)]
        return msgspec.json.encode(list_answer(head, data))

    body = await run_in_worker_thread(write, is_long)
    return Response(body, content_type="application/json")


def embedding_item(index: int, embedding: Any) -> dict[str, Any]:
    """Return an item of an answer with embeddings."""
    return {"index": index, "object": "embedding", "embedding": embedding}


def pooling_item(index: int, numbers: Any) -> dict[str, Any]:
    """Return an item of an answer with numbers of any task."""
    return {"index": index, "object": "pooling", "data": numbers}


def list_answer(head: AnswerHead, data: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an answer of the reference's usual shape around its items."""
    return {
        "id": head.answer_id,
        "object": "list",
        "created": head.created,
        "model": head.model,
        "data": data,
        "usage": {
            "prompt_tokens": head.prompt_tokens,
            "total_tokens": head.prompt_tokens,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
        },
    }


def _numbers(pooled: Pooled, endianness: Endianness) -> list[Any]:
    """Return the numbers of a text: a list, or a list for each token."""
    numbers = array("f")
    numbers.frombytes(pooled.data)
    flat = numbers.tolist()
    if len(pooled.shape) == 1:
        return flat
    width = pooled.shape[1]
    return [flat[start : start + width] for start in range(0, len(flat), width)]


def _encoded(pooled: Pooled, endianness: Endianness) -> str:
    return b64encode(ordered(pooled.data, _size(pooled), endianness)).decode("ascii")


def ordered(data: bytes, size: int, endianness: Endianness) -> bytes:
    """Return numbers of `size` bytes in a byte order."""
    if size == 1 or endianness in ("native", sys.byteorder):
        return data
    numbers = array(_CODES[size], data)
    numbers.byteswap()
    return numbers.tobytes()


def _size(pooled: Pooled) -> int:
    count = 1
    for extent in pooled.shape:
        count *= extent
    return len(pooled.data) // max(1, count)


def _octets(head: AnswerHead, request: NumberFields, found: Sequence[Pooled]) -> Response:
    """Return all numbers one after the other; a header says where which are, if that is wanted."""
    size = NUMBER_BYTES[request.embed_dtype]
    parts = [ordered(each.data, size, request.endianness) for each in found]
    headers = {}
    if request.encoding_format == "bytes":
        headers["metadata"] = json.dumps(_metadata(head, request, found), separators=(",", ":"))
    return Response(b"".join(parts), headers=headers, content_type=OCTETS)


def _metadata(head: AnswerHead, request: NumberFields, found: Sequence[Pooled]) -> dict[str, Any]:
    items, start = [], 0
    for index, each in enumerate(found):
        end = start + len(each.data)
        items.append(
            {
                "index": index,
                "embed_dtype": request.embed_dtype,
                "endianness": request.endianness,
                "start": start,
                "end": end,
                "shape": list(each.shape),
            }
        )
        start = end
    body = list_answer(head, items)
    usage = {key: body["usage"][key] for key in ("prompt_tokens", "total_tokens")}
    return {key: body[key] for key in ("id", "created", "model", "data")} | {"usage": usage}


def labels_response(head: AnswerHead, found: Sequence[Pooled], labels: Sequence[str]) -> Response:
    """Return the answer with the labels of all texts: the likeliest, and the numbers of all."""
    data = []
    for index, each in enumerate(found):
        numbers = _numbers(each, "native")
        best = max(range(len(numbers)), key=numbers.__getitem__)
        label = labels[best] if best < len(labels) else None
        item = {"index": index, "label": label, "probs": numbers, "num_classes": len(numbers)}
        data.append(item)
    return Response(msgspec.json.encode(list_answer(head, data)), content_type="application/json")
