"""Host headers and paths: what is no address is refused, what stands behind a proxy is found."""

import json
from typing import Any

import pytest
from quart import Quart

from tests.frontend.asgi import Exchange
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool

BODY = json.dumps({"messages": [{"role": "user", "content": "Hello"}]}).encode()
CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}


async def post(app: Quart, path: str, **headers: Any) -> Exchange:
    exchange = Exchange(app, path, BODY, {**JSON, **headers})
    await exchange.finish()
    return exchange


@pytest.mark.parametrize(
    "host",
    [
        "a b",
        "evil.com/path",
        "user@host",
        "host:port",
        "host:1:2",
        "host:123456",
        "[::1",
        "::1",
        "host\\x",
        "host?x",
        "höst",
        "<script>",
        "%zz",
        "a,b:x",
    ],
)
async def test_hosts_that_are_none_are_refused(
    make_app: MAKE_APP, pool: FakePool, host: str
) -> None:
    exchange = await post(make_app(), CHAT, host=host)
    assert exchange.status == 400
    error = json.loads(b"".join(exchange.chunks))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].startswith("Host")
    assert "x-request-id" in exchange.headers
    assert pool.requests == []


async def test_two_hosts_are_refused(make_app: MAKE_APP) -> None:
    app = make_app()
    exchange = await post(app, CHAT, host="a", HOST="b")
    assert exchange.status == 400


@pytest.mark.parametrize(
    "host", ["localhost", "a.b-c_d:8000", "127.0.0.1:80", "[::1]", "[2001:db8::1]:443", "a:", ""]
)
async def test_hosts(make_app: MAKE_APP, host: str) -> None:
    assert (await post(make_app(), CHAT, host=host)).status == 200


async def test_old_clients_send_no_host(make_app: MAKE_APP) -> None:
    assert (await post(make_app(), CHAT)).status == 200


@pytest.mark.parametrize("path", ["//v1/chat/completions", "///v1/chat/completions", "//health"])
async def test_paths_that_begin_with_two_slashes_are_none(make_app: MAKE_APP, path: str) -> None:
    exchange = await post(make_app(), path, host="a")
    assert exchange.status == 404
    assert json.loads(b"".join(exchange.chunks)) == {"detail": "Not Found"}


async def test_a_whole_url_is_its_path(make_app: MAKE_APP) -> None:
    assert (await post(make_app(), f"http://other{CHAT}", host="a")).status == 200
    assert (await post(make_app(), "http://other", host="a")).status == 404


@pytest.mark.parametrize("root_path", ["/llm", "/llm/", "llm", "/a/b"])
async def test_a_root_path_may_be_there_or_not(make_app: MAKE_APP, root_path: str) -> None:
    app = make_app(root_path=root_path)
    root = "/" + root_path.strip("/")
    for path in (f"{root}{CHAT}", CHAT):
        assert (await post(app, path, host="a")).status == 200
    for path in (f"{root}{root}{CHAT}", f"{root}x{CHAT}", f"{root}/{CHAT}", root):
        assert (await post(app, path, host="a")).status == 404
    client = app.test_client()
    assert (await client.get(f"{root}/openapi.json")).status_code == 200
    assert (await client.get("/health")).status_code == 200


async def test_the_description_names_the_root_path(make_app: MAKE_APP) -> None:
    client = make_app(root_path="llm/").test_client()
    described = await (await client.get("/llm/openapi.json")).get_json()
    assert described["servers"] == [{"url": "/llm"}]
    assert "servers" not in await (await make_app().test_client().get("/openapi.json")).get_json()


@pytest.mark.parametrize("root_path", ["/a b", "/a?b", "//a", "/a%2f", "a\\b"])
def test_what_is_no_path_is_no_root_path(make_app: MAKE_APP, root_path: str) -> None:
    with pytest.raises(ValueError, match="root_path"):
        make_app(root_path=root_path)
