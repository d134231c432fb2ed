"""The operator's own middleware: classes and functions through which all requests go."""

import json

import pytest

from headrace.frontend.middleware.operator_code import MiddlewareError
from tests.frontend.asgi import post
from tests.frontend.asking import ANSWER, QUESTION, ask
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool

MODULE = "tests.frontend.middleware.middlewares"
CHAT = "/v1/chat/completions"


async def test_function_sees_requests_and_answers(make_app: MAKE_APP, pool: FakePool) -> None:
    client = make_app(middleware=(f"{MODULE}.note",)).test_client()
    response = await client.post(CHAT, json={"messages": QUESTION}, headers={"X-Team": "blue"})
    assert response.status_code == 200
    assert response.headers["X-Team"] == "blue"
    assert (await response.get_json())["choices"][0]["message"]["content"] == ANSWER
    seen = len(pool.requests)
    response = await client.post(CHAT, json={"messages": QUESTION}, headers={"X-Team": "none"})
    assert response.status_code == 403
    assert await response.get_json() == {"error": "no team"}
    assert response.headers["X-Request-Id"]
    assert len(pool.requests) == seen


@pytest.mark.parametrize(("names", "order"), [(("Reversed", "Later"), ["class", "later"])])
async def test_classes_wrap_each_other_the_last_outermost(
    make_app: MAKE_APP, names: tuple[str, ...], order: list[str]
) -> None:
    client = make_app(middleware=tuple(f"{MODULE}.{name}" for name in names)).test_client()
    response = await client.get("/v1/models")
    assert response.headers.getlist("X-Order") == order


async def test_middleware_gets_every_part_of_a_stream(make_app: MAKE_APP) -> None:
    app = make_app(middleware=(f"{MODULE}.in_capitals",))
    exchange = post(app, CHAT, {"messages": QUESTION, "stream": True})
    await exchange.finish()
    text = b"".join(exchange.chunks).decode()
    assert "[DONE]" in text
    assert text == text.upper()


async def test_failure_of_a_middleware_is_a_500_without_its_text(make_app: MAKE_APP) -> None:
    client = make_app(middleware=(f"{MODULE}.failing",)).test_client()
    response, body = await ask(client)
    assert response.status_code == 500
    assert body["error"]["type"] == "InternalServerError"
    assert "secret" not in json.dumps(body)
    assert response.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("no_such_module.x", "no_such_module cannot be imported (ModuleNotFoundError"),
        (f"{MODULE}.missing", f"{MODULE} has no missing"),
        (f"{MODULE}.not_async", "must be a class or an async function"),
        (f"{MODULE}.VALUE", "must be a class or an async function"),
        (f"{MODULE}.NeedsMore", "cannot be made (TypeError"),
    ],
)
def test_what_cannot_be_used_is_named(make_app: MAKE_APP, path: str, said: str) -> None:
    with pytest.raises(MiddlewareError) as caught:
        make_app(middleware=(path,))
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
