"""Errors tell clients what is wrong with their requests, and nothing about the server."""

import errno
import json
import re
from pathlib import Path
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client
from sqlalchemy.exc import OperationalError

from headrace.frontend import errors
from headrace.frontend.chat.tools import parser
from headrace.frontend.chat.tools.parser import ToolParser
from headrace.frontend.errors import ApiError, BadRequest, InternalError, PoolFailed
from headrace.frontend.pool.interface import (
    PoolError,
    PoolUnavailable,
    RequestLost,
    RequestRejected,
)
from headrace.frontend.redaction import hide_places, without_internals
from headrace.frontend.store import database
from headrace.protocol.calls import (
    ABSENT,
    CONFLICT,
    FAILED,
    INVALID,
    MISSING,
    OVERTAKEN,
    TIMEOUT,
    UNFIT,
    AdminCall,
    ErrorKind,
    GetActivity,
    LoadAdapter,
    Pause,
    ResetPrefixCache,
    Resume,
    Sleep,
    StartProfile,
    StopProfile,
    UnloadAdapter,
    WakeUp,
)
from headrace.protocol.config import EngineConfig, ServingOptions
from headrace.protocol.to_frontend import CallAnswer, PoolResult
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.security.leaks import leak_in
from tests.security.request_fields import BODIES, USER, url_of

SECRETS = (
    "CUDA error at 0x7f12deadbeef in /usr/lib/libcuda.so",
    "cannot open /secret/models/smol/model.safetensors",
    'Traceback (most recent call last):\n  File "/srv/x/engine.py", line 5, in step',
    "<headrace.workers.engine.Engine object at 0x7f12deadbeef>",
    "no such file: /home/me/.venv/lib/python3.11/site-packages/torch/nn.py:33",
    "sqlite:////tmp/run/responses.db is locked, postgresql://me:hunter2@db/x",
)
RANDOM = "0123456789abcdef" * 2
GENERATING = [
    route
    for route in BODIES
    if route.startswith(("/v1/chat", "/v1/completions", "/invocations", "/v1/dec", "/v1/sys"))
    or route in ("/v1/messages", "/v1/responses", "/v1/responses/compact")
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("kind", [InternalError, PoolFailed, BadRequest, ApiError])
def test_cve_2026_22778_texts_of_errors(kind: type[ApiError], secret: str) -> None:
    """CVE-2026-22778, CVE-2026-54236, CVE-2026-73555: errors tell addresses and paths. All errors
    that clients see are of these classes, wherever their texts come from."""
    if kind is BadRequest and ("hunter2" in secret or "/home/me" in secret or "libcuda" in secret):
        return  # places that are not this machine's: a client may have written them
    hide_places([Path("/secret/models/smol")])
    shown = kind(f"It failed: {secret}.")
    body = json.dumps(shown.body())
    assert not leak_in(body)
    assert "It failed" in body


def test_clients_see_what_they_have_written() -> None:
    for text in ("The model '/models/x' does not exist.", "url: must be /v1/chat/completions."):
        assert without_internals(text) == text
    assert without_internals("x" * 10_000).startswith("x" * 2000)
    hostile = without_internals("/" * 100_000 + "a." * 50_000)
    assert len(hostile) <= 2001


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", GENERATING)
async def test_cve_2026_54236_failures_of_workers(
    client: Client, pool: FakePool, route: str, stream: bool
) -> None:
    """CVE-2026-22778, CVE-2026-54236, CVE-2026-73555: whatever fails in a request, before its first
    token or after."""
    failures: list[Exception] = [
        *map(RuntimeError, SECRETS),
        OSError(errno.ENOSPC, "No space left on device", "/tmp/run/x.sock"),
        MemoryError("0x7f12deadbeef"),
        PoolError(SECRETS[0]),
        PoolUnavailable(SECRETS[1]),
        RequestLost(SECRETS[0]),
        RequestRejected(SECRETS[1]),
    ]
    body = {**BODIES[route], **({"stream": True} if "batch" not in route else {})}
    body = body if stream and not route.startswith(("/v1/dec", "/v1/sys")) else BODIES[route]
    for failure in failures:
        for pool.fail_after in (0, 1):
            pool.failure = failure
            response = await client.post(url_of(route), json=body)
            text = await response.get_data(as_text=True)
            assert not leak_in(text), (failure, text)
            if response.status_code == 500 and isinstance(failure, RuntimeError):
                assert response.headers["x-request-id"] in text


async def test_cve_2026_54236_what_workers_say_of_a_request(client: Client, pool: FakePool) -> None:
    """CVE-2026-54236: a worker's text about an output that has failed."""
    for pool.reason in ("error", "rejected"):
        for pool.error in SECRETS[:4]:
            for route in ("/v1/chat/completions", "/v1/messages", "/v1/completions"):
                response = await client.post(route, json=BODIES[route])
                assert response.status_code in (400, 500)
                assert not leak_in(await response.get_data(as_text=True))


ADMIN: list[tuple[str, str, type[AdminCall]]] = [
    ("POST", "/sleep", Sleep),
    ("POST", "/wake_up", WakeUp),
    ("GET", "/is_sleeping", GetActivity),
    ("POST", "/reset_prefix_cache", ResetPrefixCache),
    ("POST", "/pause", Pause),
    ("POST", "/resume", Resume),
    ("GET", "/is_paused", GetActivity),
    ("POST", "/stop_profile", StopProfile),
    ("POST", "/start_profile", StartProfile),
    ("POST", "/v1/unload_lora_adapter", UnloadAdapter),
]
STATUSES: dict[ErrorKind, int] = {
    ABSENT: 503,
    TIMEOUT: 408,
    CONFLICT: 409,
    FAILED: 500,
    INVALID: 400,
    MISSING: 404,
    UNFIT: 400,
}


@pytest.mark.parametrize(("method", "route", "call"), ADMIN)
async def test_cve_2026_73555_calls_that_fail(
    make_app: MAKE_APP,
    pool: FakePool,
    tmp_path: Path,
    method: str,
    route: str,
    call: type[AdminCall],
) -> None:
    """CVE-2026-73555: operators' calls fail with texts of the coordinator."""
    engine = EngineConfig(enable_lora=True)
    client = make_app(enable_admin=True, profile_dir=tmp_path, engine=engine).test_client()
    asked: dict[str, Any] = {"json": BODIES[route]} if route in BODIES else {}
    for secret in SECRETS[:4]:
        for kind, status in STATUSES.items():
            pool.errors[call] = (f"it failed: {secret}", kind)
            response = await client.open(route, method=method, **asked)
            text = await response.get_data(as_text=True)
            assert response.status_code == status, text
            assert not leak_in(text)
            assert ("retry-after" in response.headers) == (kind == ABSENT)


@pytest.mark.parametrize(
    ("error", "status"), [*((each, 500) for each in SECRETS[:4]), (OVERTAKEN, 409)]
)
async def test_cve_2026_73555_workers_that_fail(
    make_app: MAKE_APP, pool: FakePool, monkeypatch: pytest.MonkeyPatch, error: str, status: int
) -> None:
    """CVE-2026-73555: operators' calls fail with texts of workers. A pause that a resume has
    overtaken is no failure."""

    async def fails(*_: object) -> PoolResult:
        return PoolResult("", (CallAnswer("main-0.0", None, error, 0.1),))

    monkeypatch.setattr(pool, "call", fails)
    client = make_app(enable_admin=True).test_client()
    for route in ("/pause", "/resume", "/sleep", "/wake_up", "/reset_prefix_cache"):
        response = await client.post(route)
        assert response.status_code == status
        assert not leak_in(await response.get_data(as_text=True))


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "/root", "/work", "../../x", "relative", "http://x/y", "~/x", "/nowhere\n/x"],
)
async def test_cve_2026_73555_adapters_that_cannot_be_loaded(
    make_app: MAKE_APP, pool: FakePool, tmp_path: Path, path: str
) -> None:
    """CVE-2026-73555: what is said of a path that has no adapter tells nothing of the disk."""
    client = make_app(enable_admin=True, lora_dir=tmp_path).test_client()
    response = await client.post(
        "/v1/load_lora_adapter", json={"lora_name": "a", "lora_path": path}
    )
    text = await response.get_data(as_text=True)
    assert response.status_code in (400, 404)
    assert not leak_in(text.replace(path, ""))
    assert not any(isinstance(call, LoadAdapter) for call, _ in pool.calls)


@pytest.mark.parametrize(
    "failure",
    [
        OperationalError("SELECT 1", {}, Exception("no database file /tmp/run/responses.db")),
        OSError(errno.ENOSPC, "No space left on device", "/tmp/run/files/x"),
        OSError(errno.EROFS, "Read-only file system", "/var/lib/headrace/responses.db"),
    ],
)
async def test_cve_2026_22778_a_store_that_fails(
    make_app: MAKE_APP, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """CVE-2026-22778: the database's own errors; a full disk."""

    def fails(*_: object) -> None:
        raise failure

    monkeypatch.setattr(database, "create_tables", fails)
    async with make_app().test_app() as app:
        client = app.test_client()
        asked: list[tuple[str, str, dict[str, Any]]] = [
            ("POST", "/v1/responses", {"input": "Hi"}),
            ("POST", "/v1/responses", {"input": "Hi", "background": True}),
            ("GET", f"/v1/responses/resp_{RANDOM}", {}),
            ("POST", "/v1/conversations", {}),
            ("GET", f"/v1/conversations/conv_{RANDOM}/items", {}),
            ("GET", "/v1/files", {}),
            ("GET", "/v1/batches", {}),
        ]
        for method, route, body in asked:
            options: dict[str, Any] = {"json": body} if method == "POST" else {}
            response = await client.open(route, method=method, **options)
            text = await response.get_data(as_text=True)
            assert not leak_in(text), text
            assert response.status_code >= 500, (route, text)


def fail() -> Any:
    raise RuntimeError(SECRETS[1])


class FailingParser(ToolParser):
    """Fails as a parser of an operator's plug-in may."""

    def read(self, source: Any, output: Any) -> Any:
        yield fail()


@pytest.mark.parametrize("stream", [False, True])
async def test_cve_2026_22778_a_parser_that_fails(
    make_app: MAKE_APP, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """CVE-2026-22778: a plug-in's own exceptions."""
    # Gone afterwards: other tests try every parser.
    monkeypatch.setitem(parser._PARSERS, "failing_for_tests", FailingParser)
    client = make_app(serving=ServingOptions(tool_call_parser="failing_for_tests")).test_client()
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    body = {"messages": [USER], "tools": tools, "stream": stream}
    response = await client.post("/v1/chat/completions", json=body)
    text = await response.get_data(as_text=True)
    assert "secret" not in text
    assert not leak_in(text)


async def test_errors_of_messages_have_anthropics_shape(make_app: MAKE_APP, pool: FakePool) -> None:
    """On each path below, for each status, whoever answers."""
    client = make_app(max_body_bytes=300, max_headers=16).test_client()
    ok = BODIES["/v1/messages"]
    asked: list[tuple[int, str, str, dict[str, Any]]] = [
        (400, "POST", "/v1/messages", {"json": {}}),
        (
            400,
            "POST",
            "/v1/messages",
            {"data": b"{", "headers": {"content-type": "application/json"}},
        ),
        (400, "POST", "/v1/messages", {"json": {**ok, "temperature": -1}}),
        (400, "POST", "/v1/messages/count_tokens", {"json": {}}),
        (404, "POST", "/v1/messages", {"json": {**ok, "model": "nope"}}),
        (404, "POST", "/v1/messages/nope", {"json": {}}),
        (404, "GET", "/v1/messages/batches/x", {}),
        (405, "GET", "/v1/messages", {}),
        (405, "PUT", "/v1/messages/count_tokens", {}),
        (413, "POST", "/v1/messages", {"json": {**ok, "x": "y" * 400}}),
        (413, "POST", "/v1/messages/count_tokens", {"json": {**ok, "x": "y" * 400}}),
        (415, "POST", "/v1/messages", {"json": ok, "headers": {"content-encoding": "gzip"}}),
        (431, "POST", "/v1/messages", {"json": ok, "headers": {f"x-{n}": "y" for n in range(30)}}),
        (431, "GET", "/v1/messages/x", {"headers": {f"x-{n}": "y" for n in range(30)}}),
    ]
    for status, method, path, options in asked:
        response = await client.open(path, method=method, **options)
        body = await response.get_json()
        assert response.status_code == status, (path, body)
        check_shape(body, response.headers["x-request-id"])
        if status == 405:
            assert response.headers["allow"] == "POST"
    pool.failure = RuntimeError(SECRETS[0])
    response = await client.post("/v1/messages", json=ok)
    body = await response.get_json()
    assert (response.status_code, body["error"]["type"]) == (500, "api_error")
    check_shape(body, response.headers["x-request-id"])
    assert body["error"]["message"].startswith(errors.FAILURE)


def check_shape(body: dict[str, Any], request_id: str) -> None:
    assert set(body) == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert body["request_id"] == request_id
    assert set(body["error"]) == {"type", "message"}
    assert re.fullmatch(r"[a-z_]+_error|request_too_large", body["error"]["type"])


async def test_each_route_says_which_methods_it_has(make_app: MAKE_APP) -> None:
    app = make_app(enable_admin=True)
    client = app.test_client()
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?\w+>", "nope", rule.rule)
        response = await client.patch(path)
        assert response.status_code == 405, path
        allowed = set(response.headers["allow"].replace(" ", "").split(","))
        assert allowed
        assert "PATCH" not in allowed
        assert (rule.methods or set()) <= allowed | {"HEAD", "OPTIONS"}
