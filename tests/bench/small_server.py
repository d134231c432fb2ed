"""What a small server answers, in pieces: for tests of the load generator."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

Answer = Callable[[dict[str, Any], asyncio.StreamWriter], Awaitable[None]]


def plain(writer: asyncio.StreamWriter, status: int, value: Any) -> None:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
    writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)


def chunk(writer: asyncio.StreamWriter, value: Any) -> None:
    event = b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode())
    writer.write(b"%x\r\n%b\n\n\r\n" % (len(event) + 2, event))


async def stream(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    """Answers as a server does: a role first, then the tokens (the first is only a part of a
    character, and makes no text), the usage, and the end."""
    count = request["max_tokens"]
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chat = "messages" in request
    if chat:
        chunk(writer, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    for number in range(count):
        last = "length" if number == count - 1 else None
        shown = "a" if number else ""
        text = {"delta": {"content": shown}} if chat else {"text": shown}
        chunk(writer, {"choices": [{**text, "finish_reason": last}]})
        await writer.drain()
    usage = {"prompt_tokens": 11, "completion_tokens": count}
    chunk(writer, {"choices": [], "usage": usage})
    chunk(writer, b"[DONE]")
    writer.write(b"0\r\n\r\n")
