"""POST /invocations: the same answers as the routes that it stands for."""

import json
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
PROMPT = {"prompt": ["Hello", "world"], "echo": True}


def comparable(text: str) -> str:
    """Without what differs from one request to the next."""
    lines = []
    for line in text.split("\n"):
        data = line.removeprefix("data: ")
        if data.startswith("{"):
            body = json.loads(data)
            line = json.dumps({**body, "id": None, "created": None})
        lines.append(line)
    return "\n".join(lines)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", {**CHAT, "n": 2, "seed": 1, "temperature": 1}),
        ("/v1/chat/completions", {**CHAT, "prompt": "both"}),
        ("/v1/chat/completions", {"messages": []}),
        ("/v1/chat/completions", {**CHAT, "model": "nope"}),
        ("/v1/completions", PROMPT),
        ("/v1/completions", {**PROMPT, "temperature": -1}),
        ("/v1/completions", {"prompt": None}),
    ],
)
async def test_answers_as_the_route_does(
    client: Client, path: str, body: dict[str, Any], stream: bool
) -> None:
    body = {**body, "stream": stream}
    wanted = await client.post(path, json=body)
    got = await client.post("/invocations", json=body)
    assert got.status_code == wanted.status_code
    assert got.content_type == wanted.content_type
    texts = [await response.get_data(as_text=True) for response in (got, wanted)]
    assert comparable(texts[0]) == comparable(texts[1])


@pytest.mark.parametrize("body", [{}, {"foo": 1}, {"input": "hello"}, {"model": "smol"}])
async def test_what_is_neither_is_refused(client: Client, body: dict[str, Any]) -> None:
    response = await client.post("/invocations", json=body)
    assert response.status_code == 400
    error = (await response.get_json())["error"]
    assert error["type"] == "BadRequestError"
    assert "messages" in error["message"]
