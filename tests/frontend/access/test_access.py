"""Which clients get in: keys, headers, and what is answered to those without access."""

import pytest
from quart.typing import TestClientProtocol as Client

from tests.frontend.asgi import post
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool

KEY, OTHER, ADMIN = "first-key-0123", "second-key-4567", "admin-key-89ab"
CHAT = {"model": "smol", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
MESSAGES = {**CHAT, "max_tokens": 4}


@pytest.fixture
def client(make_app: MAKE_APP) -> Client:
    return make_app(api_keys=(KEY, OTHER), admin_keys=(ADMIN,), enable_admin=True).test_client()


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"Bearer {OTHER}"},
        {"Authorization": f"bEaReR   {KEY}  "},
        {"x-api-key": KEY},
        {"X-API-Key": ADMIN},
        {"Authorization": f"Bearer {KEY}", "x-api-key": KEY},
        # Clients that send both often mean one only: any valid one will do.
        {"Authorization": "Bearer none", "x-api-key": KEY},
        {"Authorization": f"Bearer {KEY}", "x-api-key": "none"},
        {"Authorization": "Basic dXNlcjpwdw==", "x-api-key": KEY},
    ],
)
async def test_a_key_opens(client: Client, headers: dict[str, str]) -> None:
    assert (await client.get("/v1/models", headers=headers)).status_code == 200
    chat = await client.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert chat.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer nope"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": f"Token {KEY}"},
        {"Authorization": f"Bearer {KEY}, Bearer {KEY}"},
        {"Authorization": f"Bearer {KEY} {KEY}"},
        {"Authorization": f"Bearer {KEY}\u00a0"},
        {"Authorization": f"Bearer {KEY.upper()}"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": "Bearer " + "k" * 20_000},
        {"Authorization": "Bearer ключ".encode().decode("latin1")},
        {"x-api-key": ""},
        {"x-api-key": f"Bearer {KEY}"},
        {"api-key": KEY},
        {"Cookie": f"api_key={KEY}"},
    ],
)
async def test_nothing_else_opens(client: Client, pool: FakePool, headers: dict[str, str]) -> None:
    answer = await client.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert answer.status_code == 401
    assert await answer.get_json() == {"error": "Unauthorized"}
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="headrace"'
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Request-Id"]
    assert not pool.requests


async def test_a_key_in_the_address_does_not_open(client: Client) -> None:
    for query in (f"api_key={KEY}", f"key={KEY}", f"access_token={KEY}"):
        assert (await client.get(f"/v1/models?{query}")).status_code == 401


async def test_messages_get_their_own_shape(client: Client) -> None:
    for path in ("/v1/messages", "/v1/messages/count_tokens", "/v1/messages/unknown"):
        answer = await client.post(path, json=MESSAGES, headers={"request-id": "x"})
        assert answer.status_code == 401
        body = await answer.get_json()
        assert body["type"] == "error"
        assert body["error"]["type"] == "authentication_error"
        assert body["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]


async def test_a_full_pool_is_not_shown_without_a_key(make_app: MAKE_APP, pool: FakePool) -> None:
    from headrace.frontend.pool.interface import PoolBusy

    pool.busy = PoolBusy("full", 1.0)
    app = make_app(api_keys=(KEY,))
    exchange = post(app, "/v1/chat/completions", CHAT)
    await exchange.finish()
    assert exchange.status == 401


async def test_the_description_tells_which_keys_routes_want(client: Client) -> None:
    answer = await client.get("/openapi.json", headers={"x-api-key": KEY})
    document = await answer.get_json()
    schemes = document["components"]["securitySchemes"]
    assert schemes["bearer"] == {"type": "http", "scheme": "bearer"}
    assert schemes["x_api_key"] == {"type": "apiKey", "name": "x-api-key", "in": "header"}
    assert document["security"] == [{"bearer": []}, {"x_api_key": []}]
    paths = document["paths"]
    assert paths["/health"]["get"]["security"][0] == {}
    assert "security" not in paths["/metrics"]["get"]
    assert "401" in paths["/v1/models"]["get"]["responses"]
    assert "403" not in paths["/v1/models"]["get"]["responses"]
    assert "403" in paths["/sleep"]["post"]["responses"]


async def test_without_keys_the_description_asks_for_none(make_app: MAKE_APP) -> None:
    document = await (await make_app().test_client().get("/openapi.json")).get_json()
    assert "security" not in document
    assert "securitySchemes" not in document["components"]
    assert "401" not in document["paths"]["/v1/models"]["get"]["responses"]


async def test_the_page_is_static_and_asks_for_a_key(client: Client, make_app: MAKE_APP) -> None:
    page = await client.get("/docs")
    other = await make_app().test_client().get("/docs")
    assert page.status_code == 200
    assert await page.get_data() == await other.get_data()
    assert "requestInterceptor" in await page.get_data(as_text=True)
