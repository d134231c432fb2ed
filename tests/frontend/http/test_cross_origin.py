"""What browsers are told about pages of other sites (CORS)."""

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.pool.interface import PoolBusy
from headrace.frontend.rate_limits.headers import anthropic_headers, openai_headers
from headrace.frontend.rate_limits.meter import Level
from headrace.frontend.rate_limits.rate_limits import Levels
from tests.frontend.asking import QUESTION
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool

SITE, OTHER = "https://app.example", "https://evil.example"
CHAT = "/v1/chat/completions"
PREFLIGHT = {
    "Origin": SITE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type,authorization",
}


@pytest.fixture
def client(make_app: MAKE_APP) -> Client:
    return make_app(allowed_origins=(SITE,)).test_client()


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/messages", "/nope", "/health"])
async def test_preflight_is_answered_on_every_path(client: Client, path: str) -> None:
    response = await client.options(path, headers=PREFLIGHT)
    assert response.status_code == 200
    assert await response.get_data(as_text=True) == "OK"
    headers = response.headers
    assert headers["Access-Control-Allow-Origin"] == SITE
    assert "POST" in headers["Access-Control-Allow-Methods"]
    assert headers["Access-Control-Allow-Headers"] == "content-type,authorization"
    assert headers["Access-Control-Max-Age"] == "600"
    assert "Access-Control-Allow-Credentials" not in headers
    assert headers["Vary"].startswith("Origin")
    assert headers["X-Request-Id"]


@pytest.mark.parametrize(
    "changed", [{"Origin": OTHER}, {"Origin": f"{SITE}.evil.example"}, {"Origin": "null"}]
)
async def test_preflight_of_another_site_is_refused(
    client: Client, changed: dict[str, str]
) -> None:
    response = await client.options(CHAT, headers=PREFLIGHT | changed)
    assert response.status_code == 400
    assert "Access-Control-Allow-Origin" not in response.headers


async def test_preflight_for_a_method_or_header_that_is_not_allowed_is_refused(
    make_app: MAKE_APP,
) -> None:
    client = make_app(
        allowed_origins=(SITE,), allowed_methods=("get",), allowed_headers=("x-team",)
    ).test_client()
    assert (await client.options(CHAT, headers=PREFLIGHT)).status_code == 400
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "x-team"}
    response = await client.options(CHAT, headers=PREFLIGHT | asked)
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Methods"] == "GET"


async def test_answer_to_another_site_has_no_header(client: Client) -> None:
    response = await client.get("/v1/models", headers={"Origin": OTHER})
    assert response.status_code == 200
    assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/models", b"", 200),
        ("GET", "/nope", b"", 404),
        ("DELETE", CHAT, b"", 405),
        ("POST", CHAT, b"{bad", 400),
        ("POST", "/v1/messages", b"{bad", 400),
        ("POST", CHAT, b" " * 3000, 413),
    ],
)
async def test_errors_have_the_headers_too(
    make_app: MAKE_APP, method: str, path: str, body: bytes, status: int
) -> None:
    client = make_app(allowed_origins=(SITE,), max_body_bytes=2000).test_client()
    headers = {"Origin": SITE, "Content-Type": "application/json"}
    send = {"GET": client.get, "POST": client.post, "DELETE": client.delete}[method]
    response = await send(path, headers=headers, data=body)
    assert response.status_code == status
    _assert_readable(response.headers)


async def test_rejection_by_a_full_pool_has_the_headers(client: Client, pool: FakePool) -> None:
    pool.busy = PoolBusy("full")
    response = await client.post(CHAT, json={"messages": QUESTION}, headers={"Origin": SITE})
    assert response.status_code == 429
    _assert_readable(response.headers)
    assert "Retry-After" in response.headers["Access-Control-Expose-Headers"]


async def test_pages_may_read_what_is_left_of_limits(client: Client) -> None:
    level = Level(1, 0, 0)
    of_limits = openai_headers(Levels(level, level)) | anthropic_headers(Levels(level, level))
    response = await client.get("/v1/models", headers={"Origin": SITE})
    shown = response.headers["Access-Control-Expose-Headers"].lower().split(", ")
    assert of_limits.keys() <= set(shown)


async def test_failure_has_the_headers(client: Client, pool: FakePool) -> None:
    pool.failure = RuntimeError("x")
    response = await client.post(CHAT, json={"messages": QUESTION}, headers={"Origin": SITE})
    assert response.status_code == 500
    _assert_readable(response.headers)


async def test_stream_has_the_headers(client: Client) -> None:
    body = {"messages": QUESTION, "stream": True}
    response = await client.post(CHAT, json=body, headers={"Origin": SITE})
    assert "[DONE]" in await response.get_data(as_text=True)
    _assert_readable(response.headers)


def _assert_readable(headers: object) -> None:
    found = dict(headers)  # type: ignore[call-overload]
    assert found["access-control-allow-origin"] == SITE
    assert "Origin" in found["vary"]
    assert "X-Request-Id" in found["access-control-expose-headers"]


async def test_all_sites_may_be_allowed(make_app: MAKE_APP) -> None:
    client = make_app(allowed_origins=("*",)).test_client()
    response = await client.get("/v1/models", headers={"Origin": OTHER})
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in response.headers


async def test_no_site_is_allowed_by_default(make_app: MAKE_APP) -> None:
    client = make_app().test_client()
    response = await client.get("/v1/models", headers={"Origin": SITE})
    assert not [name for name in response.headers if name[0].lower().startswith("access-control")]
    assert (await client.options(CHAT, headers=PREFLIGHT)).status_code == 405
