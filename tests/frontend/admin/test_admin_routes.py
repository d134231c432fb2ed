"""Admin routes on a fake pool: the calls to workers, and requests that are rejected before."""

from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.admin.rpc import METHODS, worker_call
from headrace.frontend.admin.server_info import as_text
from headrace.frontend.errors import BadRequest, InvalidBody
from headrace.protocol.call_results import EngineStatistics
from headrace.protocol.calls import CallTarget, GetStats, Pause, ResetPrefixCache, StopProfile
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool


@pytest.fixture
def admin(make_app: MAKE_APP) -> Client:
    store = "postgresql+psycopg://me:hunter2@db/x"
    return make_app(enable_admin=True, response_store_url=store).test_client()


@pytest.mark.parametrize("query", ["", "?config_format=text", "?config_format=json", "?verbose"])
async def test_server_info_tells_no_secret_and_none_of_our_folders(
    admin: Client, query: str
) -> None:
    answer = await admin.get(f"/server_info{query}")
    assert answer.status_code == 200
    text = await answer.get_data(as_text=True)
    assert "hunter2" not in text
    assert "psycopg://***@db/x" in text
    assert "/secret/models/smol" in text  # as the operator gave it
    assert "text_path" not in text
    assert "run_dir" not in text
    body = await answer.get_json()
    assert {"python", "headrace", "torch"} <= body["system_env"].keys()
    assert isinstance(body["vllm_config"], dict if "json" in query else str)
    assert ("workers" in body) == ("verbose" in query)


def test_a_configuration_as_text() -> None:
    values = {
        "port": 1,
        "a": {"b": "c"},
        "e": {},
        "groups": [{"name": "g", "engine": {"seed": None}}],
    }
    assert as_text(values).splitlines() == [
        "port=1",
        "a.b='c'",
        "e={}",
        "g.name='g'",
        "g.engine.seed=None",
    ]


async def test_rpc_calls_what_is_listed(admin: Client, pool: FakePool) -> None:
    pool.values[GetStats] = EngineStatistics(*range(11))
    answer = await admin.post("/collective_rpc?worker=main-0", json={"method": "stats"})
    (stats,) = (await answer.get_json())["results"]
    assert (stats["running"], stats["step_tokens"], stats["drafts"]) == (0, 10, 0)
    assert pool.calls == [(GetStats(), CallTarget(worker="main-0"))]


@pytest.mark.parametrize(
    ("args", "kwargs", "reset_running"),
    [([], {}, False), ([True], {}, True), ([], {"reset_running_requests": True}, True)],
)
def test_arguments_come_by_position_or_by_name(
    args: list[bool], kwargs: dict[str, bool], reset_running: bool
) -> None:
    wanted = ResetPrefixCache(reset_running)
    assert worker_call("reset_prefix_cache", args, kwargs) == wanted


@pytest.mark.parametrize(
    ("method", "args", "kwargs", "field"),
    [
        ("sleep", [], {}, "method"),
        ("__class__", [], {}, "method"),
        ("ping", [1], {}, "args"),
        ("ping", [], {"x": 1}, "kwargs"),
        ("reset_prefix_cache", [True], {"reset_running_requests": True}, "kwargs"),
        ("reset_prefix_cache", ["yes"], {}, "body.reset_running_requests"),
    ],
)
def test_what_is_not_listed_is_refused(
    method: str, args: list[Any], kwargs: dict[str, Any], field: str
) -> None:
    with pytest.raises((BadRequest, InvalidBody)) as raised:
        worker_call(method, args, kwargs)
    assert raised.value.param == field
    if field == "method":
        assert all(name in raised.value.message for name in METHODS)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "method"),
        ({"method": 1}, "method"),
        ({"method": "ping", "args": {}}, "args"),
        ({"method": "ping", "timeout": 0}, "timeout"),
        ({"method": "ping", "timeout": "1"}, "timeout"),
        ({"method": "ping", "nope": 1}, "nope"),
    ],
)
async def test_bad_bodies_name_the_field(
    admin: Client, pool: FakePool, body: dict[str, Any], field: str
) -> None:
    answer = await admin.post("/collective_rpc", json=body)
    assert answer.status_code == 400
    assert field in (await answer.get_json())["error"]["message"]
    assert pool.calls == []


@pytest.mark.parametrize("path", ["/reset_prefix_cache", "/collective_rpc"])
async def test_without_the_flag_there_are_no_such_routes(client: Client, path: str) -> None:
    assert (await client.post(path, json={"method": "ping"})).status_code == 404
    assert (await client.get("/server_info")).status_code == 404


async def test_the_description_has_operators_routes(admin: Client) -> None:
    paths = (await (await admin.get("/openapi.json")).get_json())["paths"]
    for path in ("/pause", "/abort_requests", "/collective_rpc", "/start_profile", "/server_info"):
        (operation,) = paths[path].values()
        assert operation["summary"]
        assert {"200", "400"} <= operation["responses"].keys()


@pytest.mark.parametrize(
    ("query", "status", "call"),
    [
        ("", 200, Pause("abort", True, 60.0)),
        ("?mode=keep&clear_cache=false", 200, Pause("keep", False, 60.0)),
        ("?wait_for_inflight_requests", 200, Pause("wait", True, 60.0)),
        ("?mode=stop", 400, None),
    ],
)
async def test_pauses_as_they_reach_workers(
    admin: Client, pool: FakePool, query: str, status: int, call: Pause | None
) -> None:
    answer = await admin.post(f"/pause{query}")
    assert answer.status_code == status
    assert [each for each, _ in pool.calls] == ([] if call is None else [call])


@pytest.mark.parametrize(
    ("query", "kind", "param"),
    [
        ("level=x", "Bad Request", "query.level"),
        ("mode=kill", "Bad Request", "query.mode"),
        ("level=3", "BadRequestError", "level"),
        ("timeout=nan", "Bad Request", "query.timeout"),
        ("timeout=-1", "BadRequestError", "timeout"),
    ],
)
async def test_parameters_at_fault_are_named(
    admin: Client, query: str, kind: str, param: str
) -> None:
    answer = await admin.post(f"/sleep?{query}")
    assert answer.status_code == 400
    error = (await answer.get_json())["error"]
    assert (error["type"], error["param"]) == (kind, param)
    assert error["message"].startswith(f"{param}: ")


async def test_profiles_need_a_folder(admin: Client, make_app: MAKE_APP, pool: FakePool) -> None:
    answer = await admin.post("/start_profile")
    assert answer.status_code == 400
    assert "--profile-dir" in (await answer.get_json())["error"]["message"]
    assert pool.calls == []
    named = make_app(enable_admin=True, profile_dir="/traces").test_client()
    assert (await named.post("/stop_profile?verbose")).status_code == 200
    assert pool.calls == [(StopProfile(), CallTarget())]
