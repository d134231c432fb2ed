"""Requests end when their time is over, and their slots are free."""

import json
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from tests.frontend.fake_pool import FakePool

CHAT = {"model": "smol", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 9}
PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "smol", "prompt": "Hello", "max_tokens": 9},
    "/v1/responses": {"model": "smol", "input": "Hello"},
    "/v1/messages": CHAT,
}
SOON = {"X-Request-Timeout-Ms": "50"}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fields", [{}, {"stream": True}])
async def test_before_the_first_token_it_is_a_504(
    client: Client, pool: FakePool, path: str, fields: dict[str, Any]
) -> None:
    pool.hold_after = 0
    response = await client.post(path, json=PATHS[path] | fields, headers=SOON)
    assert response.status_code == 504
    body = await response.get_json()
    assert body["error"]["message"] == "The request was not answered within its time limit."
    assert all(stream.cancelled for stream in pool.streams)


@pytest.mark.parametrize("fields", [{"n": 3}, {"use_beam_search": True, "n": 2}])
async def test_of_several_texts_none_goes_on(
    client: Client, pool: FakePool, fields: dict[str, Any]
) -> None:
    pool.hold_after = 0
    path = "/v1/chat/completions"
    response = await client.post(path, json=CHAT | fields, headers=SOON)
    assert response.status_code == 504
    assert all(stream.cancelled for stream in pool.streams)


@pytest.mark.parametrize("fields", [{}, {"n": 2}])
async def test_later_it_is_one_event(
    client: Client, pool: FakePool, fields: dict[str, Any]
) -> None:
    pool.hold_after = 3
    body = CHAT | {"stream": True} | fields
    response = await client.post("/v1/chat/completions", json=body, headers=SOON)
    assert response.status_code == 200
    *events, done = (await response.get_data(as_text=True)).strip().split("\n\n")
    assert done == "data: [DONE]"
    errors = [event for event in events if '"error"' in event]
    assert errors == events[-1:]
    assert json.loads(errors[0].removeprefix("data: "))["error"]["code"] == 504


async def test_what_is_in_time_is_answered(client: Client) -> None:
    for limit in ("60000", "604800000"):
        headers = {"X-Request-Timeout-Ms": limit}
        response = await client.post("/v1/chat/completions", json=CHAT, headers=headers)
        assert response.status_code == 200


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "soon", "", "9" * 40, "１０"])
async def test_a_limit_that_is_none_is_named(client: Client, limit: str) -> None:
    headers = {"X-Request-Timeout-Ms": limit}
    response = await client.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert response.status_code == 400
    assert "X-Request-Timeout-Ms" in (await response.get_json())["error"]["message"]
