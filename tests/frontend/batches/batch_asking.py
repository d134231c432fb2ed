"""Files and batches, as clients make them."""

import asyncio
import json
import time
from collections.abc import Iterable
from typing import Any, Protocol

from quart.datastructures import FileStorage

CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")


class Client(Protocol):
    """Sends requests to an app: Quart's own client for tests, or one that adds a key."""

    async def get(self, path: str, **fields: Any) -> Any: ...

    async def post(self, path: str, **fields: Any) -> Any: ...


def chat_line(custom_id: str, **changes: Any) -> dict[str, Any]:
    """A line with a chat."""
    body = {"model": "smol", "messages": [{"role": "user", "content": f"Question {custom_id}"}]}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body, **changes}


def jsonl(lines: Iterable[Any]) -> bytes:
    """The file of some lines."""
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


async def upload(client: Client, content: bytes, purpose: str = "batch", **form: str) -> Any:
    """The answer to an upload."""
    import io

    return await client.post(
        "/v1/files",
        form={"purpose": purpose, **form},
        files={"file": FileStorage(io.BytesIO(content), filename="input.jsonl")},
    )


async def uploaded(client: Client, lines: Iterable[Any]) -> str:
    """The id of an uploaded file with these lines."""
    response = await upload(client, jsonl(lines))
    assert response.status_code == 200, await response.get_data()
    return str((await response.get_json())["id"])


async def create(client: Client, file_id: str, **fields: Any) -> Any:
    """The answer to a new batch of a file."""
    asked = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h", **fields}
    return await client.post("/v1/batches", json=asked)


async def created(client: Client, lines: Iterable[Any], **fields: Any) -> str:
    """The id of a new batch of these lines."""
    response = await create(client, await uploaded(client, lines), **fields)
    assert response.status_code == 200, await response.get_data()
    return str((await response.get_json())["id"])


async def batch(client: Client, batch_id: str) -> dict[str, Any]:
    """A batch as it is now."""
    body: dict[str, Any] = await (await client.get(f"/v1/batches/{batch_id}")).get_json()
    return body


async def wait_for(
    client: Client, batch_id: str, *statuses: str, timeout_s: float = 20.0
) -> dict[str, Any]:
    """A batch once it has one of these statuses, or has ended."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = await batch(client, batch_id)
        if found["status"] in (statuses or ENDED):
            return found
        assert found["status"] not in ENDED, found
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {timeout_s} s: {found}")


async def content(client: Client, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of a file."""
    response = await client.get(f"/v1/files/{file_id}/content")
    assert response.status_code == 200
    data: bytes = await response.get_data(as_text=False)
    return [json.loads(line) for line in data.splitlines()]
