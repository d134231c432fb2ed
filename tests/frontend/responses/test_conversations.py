"""Conversations: their routes, and the responses that continue and add to them."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI
from quart.typing import TestClientProtocol as Client

from headrace.frontend.errors import BadRequest
from headrace.frontend.responses.output.ids import new_conversation_id
from headrace.frontend.responses.store import conversation_store
from headrace.frontend.responses.store.conversation_store import ConversationStore
from headrace.frontend.store.database import Database
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from tests.frontend.conftest import Serve
from tests.frontend.fake_pool import FakePool
from tests.frontend.responses.response_asking import ask, refusal, stream, until

PATH = "/v1/conversations"
ANSWER = "The capital of France is Paris."


def user(text: str, **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **fields}


async def post(client: Client, path: str = "", status: int = 200, **body: Any) -> dict[str, Any]:
    answer = await client.post(f"{PATH}{path}", json=body)
    assert answer.status_code == status, await answer.get_data(as_text=True)
    return dict(await answer.get_json())


async def get(client: Client, path: str, status: int = 200) -> dict[str, Any]:
    answer = await client.get(f"{PATH}{path}")
    assert answer.status_code == status, await answer.get_data(as_text=True)
    return dict(await answer.get_json())


async def said(client: Client, conversation_id: str) -> list[str]:
    """The texts of a conversation's messages, in order."""
    items = (await get(client, f"/{conversation_id}/items?order=asc&limit=100"))["data"]
    return [item["content"][0]["text"] for item in items]


def prompt(pool: FakePool, text: ModelTokenizer) -> str:
    return text.backend.decode(pool.requests[-1].prompt_token_ids, skip_special_tokens=False)


async def test_a_conversation_is_made_changed_and_deleted(client: Client) -> None:
    made = await post(client, metadata={"a": "b"})
    assert made["object"] == "conversation"
    assert made["id"].startswith("conv_")
    assert made["metadata"] == {"a": "b"}
    assert isinstance(made["created_at"], int)
    path = f"/{made['id']}"
    assert await get(client, path) == made
    changed = await post(client, path, metadata={"c": "d"})
    assert changed == {**made, "metadata": {"c": "d"}}
    assert (await post(client, path, metadata=None))["metadata"] == {}
    deleted = await (await client.delete(f"{PATH}{path}")).get_json()
    assert deleted == {"id": made["id"], "object": "conversation.deleted", "deleted": True}
    await get(client, path, 404)
    assert (await client.delete(f"{PATH}{path}")).status_code == 404


async def test_items_are_added_listed_and_deleted(client: Client) -> None:
    made = await post(client, items=[user("a"), {"role": "assistant", "content": "b"}])
    path = f"/{made['id']}/items"
    added = await post(client, path, items=[user("c", id="mine"), user("d", id="mine")])
    assert [item["content"][0]["text"] for item in added["data"]] == ["c", "d"]
    assert added["data"][0]["id"] == "mine" != added["data"][1]["id"]
    assert (added["has_more"], added["first_id"]) == (False, "mine")
    assert await said(client, made["id"]) == ["a", "b", "c", "d"]
    newest = await get(client, f"{path}?limit=1")
    assert (newest["data"], newest["has_more"]) == ([added["data"][1]], True)
    after = await get(client, f"{path}?limit=2&after={newest['last_id']}")
    assert [item["content"][0]["text"] for item in after["data"]] == ["c", "b"]
    assert await get(client, f"{path}/mine") == added["data"][0]
    left = await (await client.delete(f"{PATH}{path}/mine")).get_json()
    assert left == await get(client, f"/{made['id']}")
    assert await said(client, made["id"]) == ["a", "b", "d"]
    await get(client, f"{path}/mine", 404)
    assert (await client.delete(f"{PATH}{path}/mine")).status_code == 404


@pytest.mark.parametrize(
    "how", ["whole", "streamed", "background", "unstored", "streamed unstored"]
)
async def test_responses_continue_and_add_to_a_conversation(
    client: Client, pool: FakePool, text: ModelTokenizer, how: str
) -> None:
    made = await post(client, items=[user("First.")])

    async def respond(question: str, conversation: Any) -> dict[str, Any]:
        fields: dict[str, Any] = {"input": question, "conversation": conversation}
        fields["store"] = "unstored" not in how
        if "streamed" in how:
            return dict((await stream(client, **fields))[-1].data["response"])
        body = await ask(client, background=how == "background", **fields)
        return await until(client, body["id"], "completed") if how == "background" else body

    body = await respond("One?", made["id"])
    assert body["conversation"] == {"id": made["id"]}
    assert await said(client, made["id"]) == ["First.", "One?", ANSWER]
    await respond("Two?", {"id": made["id"]})
    assert await said(client, made["id"]) == ["First.", "One?", ANSWER, "Two?", ANSWER]
    shown = prompt(pool, text)
    indices = [shown.index(part) for part in ("First.", "One?", ANSWER, "Two?")]
    assert indices == sorted(indices)


async def test_a_conversation_alone_is_an_input(client: Client) -> None:
    made = await post(client, items=[user("One?")])
    await ask(client, input=None, conversation=made["id"])
    assert await said(client, made["id"]) == ["One?", ANSWER]
    counted = await client.post(
        "/v1/responses/input_tokens", json={"conversation": made["id"], "input": "Two?"}
    )
    used = (await ask(client, conversation=made["id"], input="Two?"))["usage"]["input_tokens"]
    assert (await counted.get_json())["input_tokens"] == used


async def test_what_fails_adds_nothing(client: Client) -> None:
    made = await post(client, items=[user("One?")])
    await refusal(client, conversation=made["id"], max_output_tokens=10**6)
    assert await said(client, made["id"]) == ["One?"]


async def test_a_conversation_may_be_deleted_while_a_response_runs(
    client: Client, pool: FakePool
) -> None:
    made = await post(client, items=[user("One?")])
    pool.hold_after = 3
    asking = asyncio.create_task(ask(client, conversation=made["id"]))
    await pool.wait_for_streams(1)
    await client.delete(f"{PATH}/{made['id']}")
    pool.release.set()
    assert (await asking)["status"] == "completed"
    await get(client, f"/{made['id']}", 404)


@pytest.mark.usefixtures("quick")
async def test_a_response_is_resumed_with_the_conversation_as_it_was(
    serve: Serve, pool: FakePool
) -> None:
    async with serve() as client:
        made = await post(client, items=[user("One?")])
        pool.hold_after = 3
        body = await ask(client, background=True, conversation=made["id"], input="Two?")
        await until(client, body["id"], "in_progress")
        await pool.wait_for_streams(1)
        await post(client, f"/{made['id']}/items", items=[user("Meanwhile.")])
    pool.hold_after = None
    async with serve() as client:
        await until(client, body["id"], "completed")
        texts = await said(client, made["id"])
        assert texts[:3] == ["One?", "Meanwhile.", "Two?"]
        assert len(texts) == 4
    assert pool.requests[-1].prompt_token_ids == pool.requests[0].prompt_token_ids
    assert len(pool.requests) > 1


@pytest.mark.parametrize(
    ("status", "param", "body"),
    [
        (404, "conversation", {"conversation": "conv_nope"}),
        (404, "conversation", {"conversation": f"conv_{'0' * 32}"}),
        (400, "body.conversation", {"conversation": 5}),
        (400, "body.conversation", {"conversation": {"name": "x"}}),
        (
            400,
            "conversation",
            {"conversation": "conv_x", "previous_response_id": f"resp_{'0' * 32}"},
        ),
    ],
)
async def test_conversations_that_are_not_there(
    client: Client, status: int, param: str, body: dict[str, Any]
) -> None:
    assert (await ask(client, status, **body))["error"]["param"] == param


@pytest.mark.parametrize(
    ("param", "path", "body"),
    [
        ("body.items.0.role", "", {"items": [{"content": "x"}]}),
        ("body.metadata.a", "", {"metadata": {"a": 5}}),
        ("body.items.0", "", {"items": ["x"]}),
        ("body.metadata", "/{}", {}),
        ("body.items", "/{}/items", {}),
        ("items.0.id", "/{}/items", {"items": [{"type": "item_reference", "id": "msg_x"}]}),
    ],
)
async def test_invalid_requests_name_their_field(
    client: Client, param: str, path: str, body: dict[str, Any]
) -> None:
    made = await post(client)
    error = (await post(client, path.format(made["id"]), 400, **body))["error"]
    assert error["param"] == param


@pytest.mark.parametrize("path", ["/nope", f"/conv_{'0' * 32}"])
async def test_unknown_conversations(client: Client, path: str) -> None:
    for answer in (
        await client.get(f"{PATH}{path}"),
        await client.post(f"{PATH}{path}", json={"metadata": None}),
        await client.delete(f"{PATH}{path}"),
        await client.get(f"{PATH}{path}/items"),
        await client.post(f"{PATH}{path}/items", json={"items": []}),
        await client.get(f"{PATH}{path}/items/x"),
        await client.delete(f"{PATH}{path}/items/x"),
    ):
        assert answer.status_code == 404
        assert (await answer.get_json())["error"]["param"] == "conversation_id"


async def test_the_client_converses(openai_client: AsyncOpenAI) -> None:
    conversations = openai_client.conversations
    made = await conversations.create(
        items=[{"type": "message", "role": "user", "content": "One?"}], metadata={"a": "b"}
    )
    response = await openai_client.responses.create(
        model="smol", input="Two?", conversation=made.id
    )
    assert response.conversation is not None
    assert response.conversation.id == made.id
    items = [item async for item in conversations.items.list(made.id, order="asc", limit=1)]
    assert [item.type for item in items] == ["message"] * 3
    found = await conversations.items.retrieve(str(items[2].id), conversation_id=made.id)
    assert found == items[2]
    await conversations.items.delete(str(items[0].id), conversation_id=made.id)
    assert (await conversations.update(made.id, metadata={"c": "d"})).metadata == {"c": "d"}
    assert (await conversations.delete(made.id)).deleted


@pytest.fixture
def database(store_url: str) -> Iterator[Database]:
    database = Database(store_url)
    yield database
    database.close()


def message(text: str) -> dict[str, Any]:
    return {"id": f"msg_{text}", "type": "message", "role": "user", "content": []}


async def test_conversations_are_bounded_in_number_and_age(database: Database) -> None:
    store = ConversationStore(database, 3600.0, 2)
    ids = [new_conversation_id() for _ in range(3)]
    for conversation_id in ids:
        await store.create(conversation_id, "", {}, [message("a")])
        await asyncio.sleep(0.01)
    await store.append(ids[0], "", [message("b")])
    await store.prune()
    assert [await store.get(each, "") is not None for each in ids] == [True, False, True]
    assert await store.items(ids[1], "") is None
    await ConversationStore(database, -1.0, 2).prune()
    assert await store.get(ids[0], "") is None


async def test_a_conversation_has_bounds(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation_store, "MAX_ITEMS", 2)
    store = ConversationStore(database, 3600.0, 9)
    conversation_id = new_conversation_id()
    await store.create(conversation_id, "", {}, [message("a")])
    await store.append(conversation_id, "", [message("b")])
    stored = await store.items(conversation_id, "")
    assert stored is not None
    assert len(stored.items) == stored.end == 2
    with pytest.raises(BadRequest, match="full"):
        await store.append(conversation_id, "", [message("c")])


async def test_many_may_add_to_one_conversation_at_once(store_url: str) -> None:
    databases = [Database(store_url) for _ in range(4)]
    stores = [ConversationStore(each, 3600.0, 9) for each in databases]
    conversation_id = new_conversation_id()
    await stores[0].create(conversation_id, "", {}, [])
    added = [
        store.append(conversation_id, "", [message(str(n))]) for n, store in enumerate(stores * 5)
    ]
    await asyncio.gather(*added)
    stored = await stores[0].items(conversation_id, "")
    assert stored is not None
    assert len({item["id"] for item in stored.items}) == stored.end == 20
    for each in databases:
        each.close()
