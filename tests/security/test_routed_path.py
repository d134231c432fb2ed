"""CVE-2026-48746 (GHSA-94f4-hr76-p5j6): what a request is allowed is decided by the route that
runs, whatever its Host header, its address or its method look like."""

import asyncio
from typing import Any

import pytest
from quart import Quart
from werkzeug.routing import Rule

from headrace.frontend.access.route_finder import RouteFinder
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool

KEY = "user-key-0123456789"
ADMIN = "admin-key-0123456789"
BEARER = (b"authorization", f"Bearer {KEY}".encode())


async def status(
    app: Quart,
    path: str,
    *headers: tuple[bytes, bytes],
    method: str = "GET",
    query: bytes = b"",
    scheme: str = "http",
) -> int:
    """The status of a request whose parts reach the application just as they are here."""
    started: list[int] = []
    ended = asyncio.Event()

    async def receive() -> Any:
        if ended.is_set():
            return {"type": "http.disconnect"}
        ended.set()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            started.append(message["status"])

    scope: Any = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": list(headers),
        "http_version": "1.1",
        "scheme": scheme,
        "root_path": "",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "asgi": {"version": "3.0"},
    }
    await app(scope, receive, send)
    assert len(started) == 1
    return started[0]


@pytest.fixture
def app(make_app: MAKE_APP) -> Quart:
    return make_app(api_keys=(KEY,), admin_keys=(ADMIN,), enable_admin=True)


HOSTS = [
    b"x/health",
    b"x/health?",
    b"x/health#",
    b"x?/health",
    b"x#/health",
    b"x/livez\\",
    b"health/",
    b"/health",
    b"[::1",
    b"[::1]/health?a=",
    b"x@y",
    b"x:80/health",
    b"x:80:80",
    b"x y",
    b"",
    "é".encode(),
    b"\x00",
    b"a" * 5000,
    b"a..b",
    b"x%2fhealth",
]


@pytest.mark.parametrize("host", HOSTS)
async def test_no_host_opens_a_route(app: Quart, host: bytes) -> None:
    headers = (b"host", host)
    for path in ("/v1/models", "/server_info", "/metrics"):
        assert await status(app, path, headers) in (400, 401)
        assert await status(app, path, headers, (b"host", b"x")) in (400, 401)
    assert await status(app, "/server_info", headers, BEARER) in (400, 401, 403)


@pytest.mark.parametrize("root", ["", "/api", "/health", "/v1"])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/models",
        "//v1/models",
        "///v1/models",
        "/v1//models",
        "/v1/models/",
        "/V1/MODELS",
        "/./v1/models",
        "/health/../v1/models",
        "/health/%2e%2e/v1/models",
        "/health;/v1/models",
        "/health?/v1/models",
        "/health#/v1/models",
        "/health\\../v1/models",
        "/health/",
        "//health",
        "/health%3fverbose",
        "/health\x00",
        "/docs/../v1/models",
        "/docs/assets/../../v1/models",
        "/docs/assets/x/../../../v1/models",
        "/v1%2fmodels",
        "v1/models",
        "health/../v1/models",
        "http://health/v1/models",
        "http://x/v1/models",
        "HTTP://x/v1/models",
        "http://x//v1/models",
        "http:///v1/models",
        "http:v1/models",
        "x:v1/models",
        "*",
        "",
        " /v1/models",
        "/ｖ1/models",
    ],
)
async def test_no_spelling_of_a_path_opens_a_route(
    make_app: MAKE_APP, root: str, path: str
) -> None:
    app = make_app(api_keys=(KEY,), root_path=root)
    given = [path, root + path] if path.startswith("/") else [path]
    for each in given:
        for method in ("GET", "HEAD", "POST", "get", "OPTIONS", "PROPFIND"):
            got = await status(app, each, (b"host", b"x"), method=method)
            assert got in (400, 401), f"{method} {each!r}: {got}"


@pytest.mark.parametrize(
    "path",
    [
        "/server_info",
        "//server_info",
        "server_info",
        "http:server_info",
        "x:/server_info",
        "http://x/server_info",
        "http://x//server_info",
        "//x/server_info",
        "/health/../server_info",
        "/server_info/",
        "/v1/../server_info",
        "/server%5finfo",
    ],
)
async def test_no_spelling_of_a_path_makes_an_operator(app: Quart, path: str) -> None:
    for method in ("GET", "HEAD", "get"):
        got = await status(app, path, (b"host", b"x"), BEARER, method=method)
        assert got in (403, 404, 405), f"{method} {path!r}: {got}"


async def test_absolute_addresses_are_routed_by_their_path(app: Quart) -> None:
    host = (b"host", b"x")
    for scheme in ("http", "HTTP", "HtTpS"):
        assert await status(app, f"{scheme}://any/health", host, scheme=scheme) == 200
        assert await status(app, f"{scheme}://health/v1/models", host, scheme=scheme) == 401
        assert await status(app, f"{scheme}://any/v1/models", host, BEARER, scheme=scheme) == 200


async def test_a_root_path_opens_nothing(make_app: MAKE_APP) -> None:
    app, host = make_app(api_keys=(KEY,), root_path="/api"), (b"host", b"x")
    for path in ("/health", "/api/health"):
        assert await status(app, path, host) == 200
    for path in ("/v1/models", "/api/v1/models", "/api/api/v1/models", "/apiv1/models", "/api"):
        assert await status(app, path, host) == 401
    for path in ("/v1/models", "/api/v1/models"):
        assert await status(app, path, host, BEARER) == 200
    assert await status(app, "/apiv1/models", host, BEARER) == 404


async def test_the_route_that_runs_is_checked_again(
    make_app: MAKE_APP, pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the early look-up were ever wrong, the late check would still stop the request."""

    def wrong(self: RouteFinder, path: str, method: str) -> Rule:
        return next(rule for rule in guarded.url_map.iter_rules() if rule.rule == "/livez")

    monkeypatch.setattr(RouteFinder, "find", wrong)
    guarded = make_app(api_keys=(KEY,), admin_keys=(ADMIN,), enable_admin=True)
    host = (b"host", b"x")
    assert await status(guarded, "/v1/models", host) == 401
    assert await status(guarded, "/v1/messages", host, method="POST") == 401
    assert await status(guarded, "/server_info", host, BEARER) == 403
    assert await status(guarded, "/no-such-route", host) == 401
    assert await status(guarded, "/server_info", host, (b"x-api-key", ADMIN.encode())) == 200


async def test_web_sockets_are_closed(app: Quart) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    for path in ("/health", "/v1/realtime", "/v1/models"):
        scope: dict[str, Any] = {
            "type": "websocket",
            "path": path,
            "headers": [(b"host", b"x"), BEARER],
        }
        scope |= {"query_string": b"", "subprotocols": [], "scheme": "ws", "http_version": "1.1"}
        await app(scope, receive, send)  # type: ignore[arg-type]
    assert {message["type"] for message in sent} == {"websocket.close"}
    assert len(sent) == 3
