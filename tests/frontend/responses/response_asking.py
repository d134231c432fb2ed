"""Requests of these tests, and their answers."""

import asyncio
import json
from typing import Any, NamedTuple

from quart.typing import TestClientProtocol as Client

PATH = "/v1/responses"


class Event(NamedTuple):
    kind: str
    data: dict[str, Any]


async def ask(client: Client, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = await client.post(PATH, json={"input": "Hello", **body})
    assert answer.status_code == status, await answer.get_data(as_text=True)
    return dict(await answer.get_json())


async def refusal(client: Client, **body: Any) -> tuple[str, str]:
    """The field at fault and the message of a 400."""
    error = (await ask(client, 400, **body))["error"]
    return error["param"], error["message"]


async def get(client: Client, path: str, status: int = 200) -> dict[str, Any]:
    answer = await client.get(f"{PATH}/{path}")
    assert answer.status_code == status, await answer.get_data(as_text=True)
    return dict(await answer.get_json())


async def stream(client: Client, **body: Any) -> list[Event]:
    answer = await client.post(PATH, json={"input": "Hello", "stream": True, **body})
    assert answer.status_code == 200, await answer.get_data(as_text=True)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    return events_of(await answer.get_data(as_text=True))


async def follow(client: Client, response_id: str, after: int | None = None) -> list[Event]:
    """The events of a stored response, to its end."""
    starting = "" if after is None else f"&starting_after={after}"
    answer = await client.get(f"{PATH}/{response_id}?stream=true{starting}")
    assert answer.status_code == 200
    return events_of(await answer.get_data(as_text=True))


def events_of(text: str) -> list[Event]:
    events = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        if not block:
            continue
        kind, data = block.split("\n")
        parsed = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {parsed['type']}"
        events.append(Event(parsed["type"].removeprefix("response."), parsed))
    return events


async def until(client: Client, response_id: str, *statuses: str) -> dict[str, Any]:
    """The response, as soon as it has one of these statuses."""
    for _ in range(500):
        body = await get(client, response_id)
        if body["status"] in statuses:
            return body
        await asyncio.sleep(0.01)
    raise AssertionError(f"still {body['status']}")


def text_of(body: dict[str, Any]) -> str:
    """All text of a response's messages."""
    return "".join(
        part["text"]
        for item in body["output"]
        if item["type"] == "message"
        for part in item["content"]
    )
