"""What is stored of responses, through the routes."""

from pathlib import Path

import pytest
from quart.typing import TestClientProtocol as Client

from tests.frontend.conftest import Serve
from tests.frontend.responses.response_asking import PATH, ask, follow, get, stream, text_of


async def test_a_response_can_be_read_on_another_frontend(client: Client, serve: Serve) -> None:
    body = await ask(client)
    async with serve() as other:
        assert await get(other, body["id"]) == body
        again = await ask(other, previous_response_id=body["id"])
    assert again["status"] == "completed"


async def test_input_items_come_in_pages(client: Client) -> None:
    said = [{"role": "user", "content": f"text {number}"} for number in range(5)]
    body = await ask(client, input=said)
    path = f"{body['id']}/input_items"
    newest = await get(client, f"{path}?limit=2")
    assert [item["content"][0]["text"] for item in newest["data"]] == ["text 4", "text 3"]
    assert newest["has_more"]
    rest = await get(client, f"{path}?after={newest['last_id']}")
    assert [item["content"][0]["text"] for item in rest["data"]] == ["text 2", "text 1", "text 0"]
    assert not rest["has_more"]
    oldest = await get(client, f"{path}?order=asc&limit=1")
    assert oldest["first_id"] == oldest["last_id"] == rest["last_id"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("/input_items?limit=0", "limit"),
        ("/input_items?limit=x", "query.limit"),
        ("/input_items?order=up", "order"),
        ("/input_items?after=nope", "after"),
        ("?stream=maybe", "query.stream"),
        ("?stream=true&starting_after=-1", "starting_after"),
        ("?starting_after=1", "starting_after"),
    ],
)
async def test_queries_are_checked(client: Client, query: str, param: str) -> None:
    body = await ask(client)
    assert (await get(client, f"{body['id']}{query}", 400))["error"]["param"] == param


async def test_a_deleted_response_is_gone(client: Client) -> None:
    body = await ask(client)
    answer = await client.delete(f"{PATH}/{body['id']}")
    assert await answer.get_json() == {"id": body["id"], "object": "response", "deleted": True}
    assert (await client.delete(f"{PATH}/{body['id']}")).status_code == 404
    await get(client, body["id"], 404)
    await get(client, f"{body['id']}/input_items", 404)
    assert (await client.get(f"{PATH}/{body['id']}?stream=true")).status_code == 404


async def test_only_background_responses_can_be_cancelled(client: Client) -> None:
    body = await ask(client)
    answer = await client.post(f"{PATH}/{body['id']}/cancel")
    assert answer.status_code == 400


async def test_a_stream_is_stored_as_it_was(client: Client, serve: Serve) -> None:
    events = await stream(client)
    response_id = events[0].data["response"]["id"]
    async with serve() as other:
        assert await follow(other, response_id) == events
        assert await follow(other, response_id, after=3) == events[4:]
        assert await get(other, response_id) == events[-1].data["response"]


async def test_what_was_not_streamed_can_be_told_as_a_stream(client: Client) -> None:
    body = await ask(client)
    events = await follow(client, body["id"])
    assert [event.data["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1].kind == "completed"
    assert events[-1].data["response"] == body
    deltas = [event.data["delta"] for event in events if event.kind == "output_text.delta"]
    assert deltas == [text_of(body)]


async def test_a_store_that_fails_breaks_nothing_else(serve: Serve, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    async with serve(response_store_url=f"sqlite:///{blocked}/store.db") as client:
        for fields in ({}, {"stream": True}, {"background": True}):
            error = (await ask(client, 503, **fields))["error"]
            assert "store" in error["message"]
            assert str(tmp_path) not in error["message"]
        assert (await get(client, "resp_" + "0" * 32, 503))["error"]["code"] == 503
        assert (await ask(client, store=False))["status"] == "completed"
        chat = await client.post(
            "/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}]}
        )
        assert chat.status_code == 200
