"""What one tenant has stored is to another as if it were not there, on every route."""

import re
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from quart import Quart

from tests.frontend.batches.batch_asking import chat_line, created, uploaded
from tests.frontend.conftest import MAKE_APP
from tests.security.keys_of_tenants import ANN, ANN_TOO, BOB, KeyClient, key_table

# Values of the routes' variables that name no object of a tenant.
_OTHER_VARIABLES = {"model_id", "name"}
_BODIES: dict[str, dict[str, Any]] = {
    "/v1/conversations/<conversation_id>": {"metadata": {"a": "b"}},
    "/v1/conversations/<conversation_id>/items": {"items": [{"role": "user", "content": "x"}]},
}
_QUERIES = {
    "/v1/responses/<response_id>": ("", "?stream=true", "?stream=true&starting_after=1"),
    "/v1/conversations/<conversation_id>/items": ("", "?limit=1&order=asc"),
}


class Owned(NamedTuple):
    """The ids of what a tenant has stored. missing: ids of the same forms that nobody has."""

    ids: dict[str, str]
    missing: dict[str, str]


@pytest.fixture
async def app(make_app: MAKE_APP) -> AsyncIterator[Quart]:
    app = make_app(keys=key_table())
    async with app.test_app():
        yield app


@pytest.fixture
def ann(app: Quart) -> KeyClient:
    return KeyClient(app.test_client(), ANN)


@pytest.fixture
def bob(app: Quart) -> KeyClient:
    return KeyClient(app.test_client(), BOB)


@pytest.fixture
async def owned(ann: KeyClient) -> Owned:
    """One object of each kind."""
    response = await body(await ann.post("/v1/responses", json={"input": "Hello"}))
    item = {"role": "user", "content": "secret"}
    conversation = await body(await ann.post("/v1/conversations", json={"items": [item]}))
    items = await body(await ann.get(f"/v1/conversations/{conversation['id']}/items"))
    file_id = await uploaded(ann, [chat_line("a")])
    batch_id = await created(ann, [chat_line("a")])
    ids = {
        "response_id": response["id"],
        "conversation_id": conversation["id"],
        "item_id": items["data"][0]["id"],
        "file_id": file_id,
        "batch_id": batch_id,
    }
    return Owned(ids, {name: _unknown(value) for name, value in ids.items()})


def _unknown(known: str) -> str:
    """An id of the same form."""
    return re.sub("[0-9a-f]{32}", "0" * 32, known)


async def body(response: Any) -> dict[str, Any]:
    assert response.status_code == 200, await response.get_data(as_text=True)
    found: dict[str, Any] = await response.get_json()
    return found


async def answer(
    client: KeyClient, method: str, path: str, ids: dict[str, str], **more: Any
) -> Any:
    """Status, headers and text of an answer, without what every answer has of its own."""
    for name, value in ids.items():
        path = path.replace(f"<{name}>", value)
    response = await client.open(path, method, **more)
    text = await response.get_data(as_text=True)
    varying = ("x-request-id", "date")
    headers = {name: value for name, value in response.headers if name.lower() not in varying}
    return response.status_code, headers, text


def routes_of_objects(app: Quart) -> list[tuple[str, str]]:
    found = []
    for rule in app.url_map.iter_rules():
        if rule.arguments and not rule.arguments & _OTHER_VARIABLES:
            methods = (rule.methods or set()) - {"HEAD", "OPTIONS"}
            found += [(method, rule.rule) for method in sorted(methods)]
    return sorted(found)


async def test_an_object_of_another_tenant_is_none(
    app: Quart, ann: KeyClient, bob: KeyClient, owned: Owned
) -> None:
    routes = routes_of_objects(app)
    assert len(routes) >= 15
    assert {name for _, rule in routes for name in re.findall("<(.*?)>", rule)} == set(owned.ids)
    for method, rule in routes:
        for query in _QUERIES.get(rule, ("",)):
            sent = {"json": _BODIES.get(rule, {})} if method == "POST" else {}
            found = await answer(bob, method, rule + query, owned.ids, **sent)
            none = await answer(bob, method, rule + query, owned.missing, **sent)
            assert found == none, (method, rule)
            assert found[0] == 404, (method, rule)
    # And nothing has happened to them; a second key of the same tenant finds them.
    for client in (ann, KeyClient(app.test_client(), ANN_TOO)):
        for method, rule in routes:
            if method == "GET":
                assert (await answer(client, method, rule, owned.ids))[0] == 200, rule


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/v1/responses", {"input": "x", "previous_response_id": "<response_id>"}),
        ("/v1/responses", {"input": "x", "conversation": "<conversation_id>"}),
        ("/v1/responses", {"input": "x", "conversation": {"id": "<conversation_id>"}}),
        ("/v1/responses", {"input": [{"type": "item_reference", "id": "<output_id>"}]}),
        ("/v1/responses/compact", {"model": "smol", "previous_response_id": "<response_id>"}),
        ("/v1/responses/input_tokens", {"input": "x", "previous_response_id": "<response_id>"}),
        ("/v1/responses/input_tokens", {"input": "x", "conversation": "<conversation_id>"}),
        (
            "/v1/batches",
            {
                "input_file_id": "<file_id>",
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            },
        ),
    ],
)
async def test_nothing_continues_an_object_of_another_tenant(
    ann: KeyClient, bob: KeyClient, owned: Owned, path: str, template: dict[str, Any]
) -> None:
    response = await body(await ann.get(f"/v1/responses/{owned.ids['response_id']}"))
    ids = {**owned.ids, "output_id": response["output"][0]["id"]}
    missing = {**owned.missing, "output_id": _unknown(ids["output_id"])}

    async def status_and_text(client: KeyClient, names: dict[str, str]) -> tuple[int, str]:
        sent = _filled(template, names)
        status, _, text = await answer(client, "POST", path, {}, json=sent)
        for name, value in names.items():
            text = text.replace(value, f"<{name}>")
        return status, text

    assert (await status_and_text(ann, ids))[0] == 200
    found = await status_and_text(bob, ids)
    assert found == await status_and_text(bob, missing)
    assert found[0] in (400, 404)


def _filled(template: Any, ids: dict[str, str]) -> Any:
    if isinstance(template, dict):
        return {key: _filled(value, ids) for key, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, ids) for value in template]
    return ids.get(template[1:-1], template) if template.startswith("<") else template


async def test_lists_hold_what_is_the_tenants_own(
    app: Quart, ann: KeyClient, bob: KeyClient, owned: Owned
) -> None:
    for path, name in (("/v1/files", "file_id"), ("/v1/batches", "batch_id")):
        assert owned.ids[name] in str(await body(await ann.get(path)))
        assert (await body(await bob.get(path)))["data"] == []
        pages = [
            await answer(bob, "GET", f"{path}?after={ids[name]}", {})
            for ids in (owned.ids, owned.missing)
        ]
        assert pages[0] == pages[1]
        assert pages[0][0] == 400


async def test_a_user_named_like_another_tenant_reads_nothing_of_it(
    ann: KeyClient, bob: KeyClient, owned: Owned
) -> None:
    fields = {"input": "x", "user": "ann", "previous_response_id": owned.ids["response_id"]}
    assert (await bob.post("/v1/responses", json=fields)).status_code == 404
