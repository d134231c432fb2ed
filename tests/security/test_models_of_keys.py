"""A model that a key may not use is to it as one that is not served."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from headrace.frontend.access.key_table import KeyTable
from headrace.protocol.state import AdapterState
from tests.frontend.batches.batch_asking import chat_line, created, wait_for
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool, pool_state
from tests.security.keys_of_tenants import ANN, BOB, KeyClient, api_key

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/chat/completions/batch": {**CHAT, "messages": [CHAT["messages"]]},
    "/v1/completions": {"prompt": "x"},
    "/invocations": {"prompt": "x"},
    "/v1/responses": {"input": "x"},
    "/v1/responses/compact": {"input": "x"},
    "/v1/responses/input_tokens": {"input": "x"},
    "/v1/messages": CHAT,
    "/v1/messages/count_tokens": {"messages": CHAT["messages"]},
    "/v1/decisions": {
        "input": "x",
        "questions": [{"type": "predicate", "instructions": "?"}],
    },
    "/tokenize": {"prompt": "x"},
    "/detokenize": {"tokens": [1]},
}
ADAPTER = AdapterState("tuned", "a" * 16, "tuned", False)


@pytest.fixture
async def clients(make_app: MAKE_APP, pool: FakePool) -> AsyncIterator[tuple[KeyClient, KeyClient]]:
    """ann may use one of the names alone, bob the adapter alone."""
    pool.state = pool_state(adapters=(ADAPTER,))
    table = KeyTable(
        [
            api_key(ANN, "ann", models=("smol-alias",)),
            api_key(BOB, "bob", models=("tuned", "not-served")),
        ]
    )
    async with make_app(keys=table).test_app() as app:
        yield KeyClient(app.test_client(), ANN), KeyClient(app.test_client(), BOB)


async def names(client: KeyClient) -> list[str]:
    return [each["id"] for each in (await (await client.get("/v1/models")).get_json())["data"]]


async def answer(client: KeyClient, path: str, model: str) -> tuple[int, str]:
    response = await client.post(path, json={**BODIES[path], "model": model})
    text = await response.get_data(as_text=True)
    request_id = response.headers["x-request-id"]
    return response.status_code, text.replace(model, "MODEL").replace(request_id, "ID")


async def test_lists_hold_the_keys_models(clients: tuple[KeyClient, KeyClient]) -> None:
    ann, bob = clients
    assert await names(ann) == ["smol-alias"]
    assert await names(bob) == ["tuned"]
    assert (await ann.get("/v1/models/smol-alias")).status_code == 200
    assert (await bob.get("/v1/models/tuned")).status_code == 200
    for client in clients:
        assert (await client.get("/v1/models/smol")).status_code == 404
    assert (await ann.get("/v1/models/tuned")).status_code == 404


@pytest.mark.parametrize("path", BODIES)
async def test_other_models_are_unknown_on_every_route(
    clients: tuple[KeyClient, KeyClient], path: str
) -> None:
    ann, bob = clients
    assert (await answer(ann, path, "smol-alias"))[0] == 200
    assert (await answer(bob, path, "tuned"))[0] == 200
    for client, hidden in ((ann, "tuned"), (ann, "smol"), (bob, "smol-alias")):
        found = await answer(client, path, hidden)
        assert found == await answer(client, path, "nobody-has-it")
        assert found[0] == 404


async def test_without_a_name_it_is_the_first_that_the_key_may_use(
    clients: tuple[KeyClient, KeyClient],
) -> None:
    ann, bob = clients
    response = await ann.post("/v1/completions", json={"prompt": "x"})
    assert (await response.get_json())["model"] == "smol-alias"
    assert (await bob.post("/v1/completions", json={"prompt": "x"})).status_code == 404


async def test_lines_of_batches_use_the_models_of_their_key(
    clients: tuple[KeyClient, KeyClient],
) -> None:
    ann, _ = clients
    fine = chat_line("a", body={**CHAT, "model": "smol-alias"})
    wrong = [chat_line("b", body={**CHAT, "model": model}) for model in ("smol", "nobody-has-it")]
    done = await wait_for(ann, await created(ann, [fine]))
    assert done["request_counts"] == {"total": 1, "completed": 1, "failed": 0}
    failed = [await wait_for(ann, await created(ann, [line])) for line in wrong]
    codes = [each["errors"]["data"][0]["code"] for each in failed]
    assert codes == ["model_not_found"] * 2
