"""What OpenAI's and Anthropic's clients make of keys: their own errors, and both headers."""

from collections.abc import AsyncIterator

import anthropic
import httpx2
import openai
import pytest
from quart import Quart

from tests.frontend.conftest import MAKE_APP

KEY = "sdk-key-0123456789"
CHAT = [{"role": "user", "content": "Hi"}]


@pytest.fixture
async def app(make_app: MAKE_APP) -> AsyncIterator[Quart]:
    app = make_app(api_keys=(KEY,), admin_keys=("ops-key",), enable_admin=True)
    async with app.test_app():
        yield app


def http(app: Quart) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app))  # type: ignore[arg-type]


def of_openai(app: Quart, key: str) -> openai.AsyncOpenAI:
    client = http(app)
    return openai.AsyncOpenAI(
        base_url="http://test/v1", api_key=key, http_client=client, max_retries=0
    )


async def test_openai(app: Quart) -> None:
    async with of_openai(app, KEY) as client:
        assert (await client.models.list()).data
    async with of_openai(app, "wrong") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.chat.completions.create(model="smol", messages=CHAT)  # type: ignore[arg-type]
        assert caught.value.status_code == 401


@pytest.mark.parametrize("name", ["api_key", "auth_token"])
async def test_anthropic(app: Quart, name: str) -> None:
    async def ask(key: str) -> anthropic.types.Message:
        settings = {"api_key": None, "auth_token": None, name: key}
        async with anthropic.AsyncAnthropic(
            base_url="http://test", http_client=http(app), max_retries=0, **settings
        ) as client:
            return await client.messages.create(model="smol", max_tokens=4, messages=CHAT)  # type: ignore[arg-type]

    assert (await ask(KEY)).content
    with pytest.raises(anthropic.AuthenticationError) as caught:
        await ask("wrong")
    body = caught.value.body
    assert isinstance(body, dict)
    assert body["error"]["type"] == "authentication_error"
    assert caught.value.request_id == body["request_id"]


async def test_permission_is_another_error(app: Quart) -> None:
    async with of_openai(app, KEY) as client:
        with pytest.raises(openai.PermissionDeniedError, match="needs an admin key"):
            await client.post("/load_lora_adapter", cast_to=object, body={})
