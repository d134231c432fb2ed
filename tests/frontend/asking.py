"""Requests for texts, and their answers."""

import json
from typing import Any

from quart import Response
from quart.typing import TestClientProtocol as Client

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."


async def ask(client: Client, **fields: Any) -> tuple[Response, dict[str, Any]]:
    """A chat: the response and its body."""
    body = {"messages": QUESTION, **fields}
    response = await client.post("/v1/chat/completions", json=body)
    return response, await response.get_json()


async def complete(client: Client, **fields: Any) -> tuple[Response, dict[str, Any]]:
    """A completion: the response and its body."""
    response = await client.post("/v1/completions", json=fields)
    return response, await response.get_json()


async def rejection(client: Client, **fields: Any) -> dict[str, Any]:
    """The error of a chat that is rejected."""
    response, body = await ask(client, **fields)
    assert response.status_code == 400, body
    found: dict[str, Any] = body["error"]
    return found


async def events(
    client: Client, path: str = "/v1/chat/completions", **fields: Any
) -> list[dict[str, Any]]:
    """The events of a stream, [DONE] left out."""
    response = await client.post(path, json={"stream": True, **fields})
    assert response.status_code == 200, await response.get_data(as_text=True)
    lines = (await response.get_data(as_text=True)).strip().split("\n\n")
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def numbers(text: str) -> dict[str, float]:
    """The samples of metrics, by name and labels."""
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}
