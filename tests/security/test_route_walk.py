"""Every route of the application's own map, and every operation of its description: which keys it
wants. The reference guarded a list of prefixes, and /invocations was not among them (#58144 in
its tracker)."""

import pytest
from quart import Quart
from quart.typing import TestClientProtocol as Client

from tests.frontend.conftest import MAKE_APP

KEY, ADMIN = "user-key-0123456789", "admin-key-0123456789"
PUBLIC = {"/health", "/livez", "/ping", "/docs", "/docs/assets/<name>"}
WITH_PUBLIC_METRICS = {"/metrics", "/version"}

Operation = tuple[str, str, str]  # method, path, rule


def operations(app: Quart) -> list[Operation]:
    """All methods of all routes, with values in place of their variables."""
    found = []
    for rule in app.url_map.iter_rules():
        path = rule.rule
        for name in rule.arguments:
            for written in (f"<{name}>", f"<path:{name}>", f"<int:{name}>"):
                path = path.replace(written, "1")
        assert "<" not in path, path
        found += [(method, path, rule.rule) for method in sorted(rule.methods or ())]
    return found


async def described(client: Client) -> list[Operation]:
    document = await (
        await client.get("/openapi.json", headers={"Authorization": f"Bearer {KEY}"})
    ).get_json()
    return [
        (method.upper(), path.replace("{", "").replace("}", ""), path)
        for path, methods in document["paths"].items()
        for method in methods
    ]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def status(client: Client, method: str, path: str, headers: dict[str, str]) -> int:
    # An empty body is enough: the key is looked at before it.
    answer = await client.open(path, method=method, headers=headers, json=_body(method))
    return answer.status_code


def _body(method: str) -> dict[str, str] | None:
    return {} if method in ("POST", "PUT", "PATCH") else None


@pytest.fixture
def app(make_app: MAKE_APP) -> Quart:
    return make_app(
        api_keys=(KEY,), admin_keys=(ADMIN,), enable_admin=True, enable_tokenizer_info=True
    )


@pytest.fixture
def operators_rules(make_app: MAKE_APP, app: Quart) -> set[str]:
    """What --enable-admin adds: all of that is for operators."""
    usual = {rule for _, _, rule in operations(make_app(enable_tokenizer_info=True))}
    rules = {rule for _, _, rule in operations(app)} - usual
    assert len(rules) >= 16
    assert {"/collective_rpc", "/start_profile", "/sleep", "/server_info", "/pause"} <= rules
    assert {"/scale_elastic_ep", "/v1/load_lora_adapter", "/abort_requests"} <= rules
    return rules


async def test_without_a_valid_key_only_probes_and_pages_answer(app: Quart) -> None:
    client = app.test_client()
    walked = operations(app) + await described(client)
    assert len(walked) > 100
    for headers in ({}, bearer("wrong"), {"x-api-key": "wrong"}, {"Authorization": f"Basic {KEY}"}):
        for method, path, rule in walked:
            got = await status(client, method, path, headers)
            if rule in PUBLIC:
                assert got in (200, 404, 503), f"{method} {path}: {got}"  # an unknown asset
            else:
                assert got == 401, f"{method} {path}: {got} with {headers}"


async def test_a_key_opens_all_but_operators_routes(app: Quart, operators_rules: set[str]) -> None:
    client = app.test_client()
    for headers in (bearer(KEY), {"x-api-key": KEY}):
        for method, path, rule in operations(app):
            got = await status(client, method, path, headers)
            if rule in operators_rules:
                assert got == 403, f"{method} {path}: {got}"
            else:
                assert got not in (401, 403), f"{method} {path}: {got}"


async def test_an_admin_key_opens_all(app: Quart) -> None:
    client = app.test_client()
    for method, path, _ in operations(app):
        got = await status(client, method, path, bearer(ADMIN))
        assert got not in (401, 403), f"{method} {path}: {got}"


async def test_operators_routes_stay_closed_without_an_admin_key(
    make_app: MAKE_APP, operators_rules: set[str]
) -> None:
    app = make_app(api_keys=(KEY,), enable_admin=True)
    client = app.test_client()
    for method, path, rule in operations(app):
        if rule in operators_rules:
            answer = await client.open(path, method=method, headers=bearer(KEY), json=None)
            assert answer.status_code == 403
            if method != "HEAD":
                assert "--admin-key" in (await answer.get_json())["error"]["message"]


async def test_with_admin_keys_alone_nothing_else_is_open(make_app: MAKE_APP) -> None:
    app = make_app(admin_keys=(ADMIN,))
    client = app.test_client()
    for method, path, rule in operations(app):
        if rule not in PUBLIC:
            assert await status(client, method, path, {}) == 401
            assert await status(client, method, path, bearer(ADMIN)) not in (401, 403)


async def test_metrics_are_public_when_the_operator_says_so(make_app: MAKE_APP) -> None:
    client = make_app(api_keys=(KEY,), public_metrics=True).test_client()
    for path in WITH_PUBLIC_METRICS:
        for headers in ({}, bearer("wrong"), bearer(KEY)):
            assert await status(client, "GET", path, headers) == 200
    assert await status(client, "GET", "/load", {}) == 401


@pytest.mark.parametrize(
    "query", ["verbose", "verbose=1", "verbose=true", "a=b&verbose", "%76erbose"]
)
async def test_what_health_tells_in_detail_needs_a_key(app: Quart, query: str) -> None:
    client = app.test_client()
    path = f"/health?{query}"
    assert await status(client, "GET", "/health", {}) == 200
    assert await status(client, "GET", path, {}) == 401
    assert await status(client, "GET", path, bearer("wrong")) == 401
    assert await status(client, "GET", path, bearer(KEY)) == 200
    assert await status(client, "GET", "/health?verbose=0", {}) == 200


async def test_unknown_paths_and_methods_need_a_key(app: Quart) -> None:
    client = app.test_client()
    for method, path in (
        ("GET", "/"),
        ("GET", "/no-such-route"),
        ("GET", "/v1/chat/completions"),
        ("DELETE", "/v1/models"),
        ("OPTIONS", "/v1/chat/completions"),
        ("OPTIONS", "/"),
        ("TRACE", "/v1/models"),
        ("POST", "/health"),
    ):
        assert await status(client, method, path, {}) == 401, path
        assert await status(client, method, path, bearer(KEY)) in (404, 405), path


async def test_a_server_without_keys_wants_none(make_app: MAKE_APP) -> None:
    app = make_app(enable_admin=True)
    client = app.test_client()
    for headers in ({}, bearer("anything")):
        for method, path, _ in operations(app):
            assert await status(client, method, path, headers) not in (401, 403)
