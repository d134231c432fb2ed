"""Responses that outlive their request and their frontend. Two applications on one store are two
frontends; one whose tasks end without a word has died."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client
from sqlalchemy import select

from headrace.frontend.pool.interface import PoolBusy, PoolUnavailable
from headrace.frontend.responses.execution import store_maintenance
from headrace.frontend.responses.execution.live_response import LiveResponse
from headrace.frontend.responses.execution.response_run import ResponseRun
from headrace.frontend.responses.execution.response_runner import ResponseRunner
from headrace.frontend.responses.execution.store_maintenance import MAX_ATTEMPTS
from headrace.frontend.responses.output.event_writer import EventWriter
from headrace.frontend.responses.store.ownership import ResponseOwnership
from headrace.frontend.responses.store.tables import responses
from headrace.frontend.store.database import Database
from headrace.frontend.streaming import KEEP_ALIVE
from tests.frontend.conftest import Serve
from tests.frontend.fake_pool import FakePool, Reply
from tests.frontend.responses.response_asking import (
    PATH,
    Event,
    ask,
    events_of,
    follow,
    get,
    stream,
    text_of,
    until,
)
from tests.frontend.responses.response_script import Script

pytestmark = pytest.mark.usefixtures("quick")

ANSWER = "The capital of France is Paris."
DEMO = {"type": "mcp", "server_label": "demo", "require_approval": "never"}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """The store that the frontends share."""
    database = Database(f"sqlite:///{tmp_path / 'responses.db'}")
    yield database
    database.close()


@pytest.fixture
def dies(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and frontends that stop from then on do so without a word to the store."""

    def die() -> None:
        async def vanish(runner: ResponseRunner) -> None:
            runner._stopping = True
            for live in runner._live.values():
                assert live.work is not None
                live.work.cancel()
            await asyncio.gather(*runner._run_tasks, return_exceptions=True)

        monkeypatch.setattr(ResponseRunner, "stop", vanish)

    return die


async def test_it_is_queued_then_completed(client: Client, pool: FakePool) -> None:
    body = await ask(client, background=True)
    assert (body["status"], body["background"], body["output"]) == ("queued", True, [])
    done = await until(client, body["id"], "completed")
    assert text_of(done) == ANSWER
    assert done["usage"]["output_tokens"] > 5
    events = await follow(client, body["id"])
    assert [event.kind for event in events][:3] == ["created", "queued", "in_progress"]
    assert events[-1].data["response"] == done


async def test_what_cannot_run_is_refused_at_once(client: Client) -> None:
    error = (await ask(client, 400, background=True, max_output_tokens=10**6))["error"]
    assert error["param"] == "max_output_tokens"


async def test_it_waits_for_a_worker_that_has_room(client: Client, pool: FakePool) -> None:
    pool.failure = PoolBusy("all workers are at their limit", retry_after_s=0.01)
    body = await ask(client, background=True)
    await pool.wait_for_streams(3)
    assert (await get(client, body["id"]))["status"] in ("queued", "in_progress")
    pool.failure = None
    assert text_of(await until(client, body["id"], "completed")) == ANSWER


async def test_another_frontend_follows_and_cancels(
    client: Client, serve: Serve, pool: FakePool
) -> None:
    pool.hold_after = 4
    body = await ask(client, background=True)
    async with serve() as other:
        following = asyncio.create_task(follow(other, body["id"]))
        await until(other, body["id"], "in_progress")
        cancelled = await (await other.post(f"{PATH}/{body['id']}/cancel")).get_json()
        assert cancelled["status"] == "cancelled"
        events = await asyncio.wait_for(following, 5)
        assert events[-1].data["response"]["status"] == "cancelled"
        assert (await get(client, body["id"]))["status"] == "cancelled"
        again = await other.post(f"{PATH}/{body['id']}/cancel")
        assert (await again.get_json())["status"] == "cancelled"
    for _ in range(200):  # its owner learns of it
        if pool.streams[0].cancelled:
            break
        await asyncio.sleep(0.01)
    assert pool.streams[0].cancelled


async def test_another_frontend_fills_the_silence(serve: Serve, pool: FakePool) -> None:
    pool.hold_after = 4
    async with serve() as first, serve(sse_keep_alive_interval_s=0.1) as other:
        body = await ask(first, background=True)
        following = asyncio.create_task(other.get(f"{PATH}/{body['id']}?stream=true"))
        await asyncio.sleep(1)
        pool.release.set()
        answer = await asyncio.wait_for(following, 5)
        text = await answer.get_data(as_text=True)
    assert text.count(KEEP_ALIVE) >= 3
    events = events_of(text.replace(KEEP_ALIVE, ""))
    assert [event.data["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1].kind == "completed"


async def test_a_stream_goes_on_elsewhere_with_the_same_events(
    serve: Serve, pool: FakePool, dies: Callable[[], None], database: Database
) -> None:
    """Killed in the middle, gone on with by another: all that was seen stays true."""
    async with serve() as first:
        whole = await stream(first, background=True, seed=3)
    pool.hold_after = 4
    pool.requests.clear()
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(serve())
        body = await ask(first, background=True, seed=3)
        events = await _stored(database, body["id"], 8)
        dies()
    assert pool.requests[0].sampling.seed == 3
    pool.hold_after = None
    pool.reply = _rest_of(pool.reply)
    async with serve(enable_log_requests=True) as second:
        done = await until(second, body["id"], "completed")
        assert text_of(done) == ANSWER
        rest = await follow(second, body["id"], after=len(events) - 1)
    resumed = pool.requests[-1]
    assert len(resumed.output_token_ids) >= 3
    assert resumed.sampling == pool.requests[0].sampling
    assert resumed.prompt_token_ids == pool.requests[0].prompt_token_ids
    assert _told([*events, *rest]) == _told(whole)


async def test_tools_that_have_answered_are_not_asked_again(
    serve: Serve, pool: FakePool, script: Script, dies: Callable[[], None]
) -> None:
    script.says = ['<call calculate {"expression": "6*7"}>', "It is 42, of course, forty-two."]
    body = {}
    async with serve(tool_server="demo") as first:
        whole = await ask(first, tools=[DEMO], store=False)
    assert [item["type"] for item in whole["output"]] == ["mcp_list_tools", "mcp_call", "message"]
    turns = len(pool.requests)
    pool.hold_after = 20
    async with serve(tool_server="demo") as first:
        body = await ask(first, tools=[DEMO], background=True)
        await pool.wait_for_streams(turns + 1)
        await asyncio.sleep(0.3)
        dies()
    pool.hold_after = None
    calls = len(pool.requests)
    async with serve(tool_server="demo") as second:
        done = await until(second, body["id"], "completed", "failed")
    assert [_said(item) for item in done["output"]] == [_said(item) for item in whole["output"]]
    assert len(pool.requests) > calls


async def test_a_foreground_stream_whose_frontend_died_has_failed(
    serve: Serve,
    pool: FakePool,
    dies: Callable[[], None],
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool.hold_after = 4
    monkeypatch.setattr(LiveResponse, "stop", lambda live, **_: None)  # it does not notice either
    async with serve() as first:
        waiting = asyncio.create_task(stream(first))
        await pool.wait_for_streams(1)
        await asyncio.sleep(0.2)
        dies()
        waiting.cancel()
    async with serve() as second:
        pool.hold_after = None
        only = select(responses.c.id)
        response_id = await database.read(lambda connection: connection.execute(only).scalar_one())
        failed = await until(second, response_id, "failed")
        assert failed["error"]["code"] == "server_error"


async def test_one_that_kills_its_frontends_is_given_up(
    serve: Serve, pool: FakePool, dies: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.hold_after = 2
    dies()
    async with serve() as first:
        body = await ask(first, background=True)
        await pool.wait_for_streams(1)
    for number in range(2, MAX_ATTEMPTS + 1):
        async with serve():
            await pool.wait_for_streams(number)
    async with serve() as last:
        assert (await until(last, body["id"], "failed"))["error"]["code"] == "server_error"
    assert len(pool.streams) == MAX_ATTEMPTS


async def test_one_that_cannot_be_told_of_ends(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, pool: FakePool, dies: Callable[[], None]
) -> None:
    """On the frontend that runs it, and on one that takes it over."""

    def mute(events: EventWriter, status: str, body: dict[str, Any]) -> None:
        raise ValueError("no such event")

    pool.hold_after = 2
    async with serve() as first:
        left = await ask(first, background=True)
        await pool.wait_for_streams(1)
        dies()
    pool.hold_after = None
    monkeypatch.setattr(EventWriter, "lifecycle", mute)
    async with serve() as second:
        begun = await ask(second, background=True)
        for body in (begun, left):
            assert (await until(second, body["id"], "failed"))["error"]["code"] == "server_error"


async def test_it_is_left_to_those_who_serve_its_model(
    serve: Serve, pool: FakePool, dies: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pools on one store: one that has another model neither runs nor ends it."""
    monkeypatch.setattr(store_maintenance, "ABANDONED_S", 600.0)
    pool.hold_after = 0
    async with serve() as first:
        body = await ask(first, background=True)
        await pool.wait_for_streams(1)
        dies()
    pool.hold_after = None
    async with serve(tool_server="demo") as foreign:
        await asyncio.sleep(0.5)  # it is stale by now
        assert (await get(foreign, body["id"]))["status"] in ("queued", "in_progress")
        assert len(pool.requests) == 1
        monkeypatch.setattr(store_maintenance, "ABANDONED_S", 0.1)
        failed = await until(foreign, body["id"], "failed", "completed")
        assert "not served any more" in failed["error"]["message"]


async def test_one_that_is_begun_again_slowly_is_not_taken_from_it(
    serve: Serve, pool: FakePool, dies: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.hold_after = 2
    async with serve() as first:
        body = await ask(first, background=True)
        await pool.wait_for_streams(1)
        dies()
    prepare = ResponseRun.prepare

    async def slowly(run: ResponseRun) -> None:
        await asyncio.sleep(1)
        await prepare(run)

    monkeypatch.setattr(ResponseRun, "prepare", slowly)
    pool.hold_after = None
    pool.reply = _rest_of(pool.reply)
    async with serve() as second, serve():
        assert text_of(await until(second, body["id"], "completed")) == ANSWER
    assert len(pool.requests) == 2


async def test_what_has_begun_waits_for_a_worker_too(
    serve: Serve, pool: FakePool, dies: Callable[[], None]
) -> None:
    """Frontend and worker are killed at once: the one is back before the other."""
    reply = pool.reply
    pool.hold_after = 4
    async with serve() as first:
        body = await ask(first, background=True)
        await pool.wait_for_streams(1)
        await asyncio.sleep(0.2)
        dies()
    pool.hold_after, pool.reply = None, _rest_of(reply)
    pool.failure = PoolUnavailable("no worker is ready", retry_after_s=0.01)
    async with serve() as second:
        await pool.wait_for_streams(3)
        pool.failure = None
        assert text_of(await until(second, body["id"], "completed", "failed")) == ANSWER


async def test_a_frontend_that_stops_hands_over_at_once(
    serve: Serve, pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.frontend.responses.execution.store_maintenance.STALE_S", 1000)
    pool.hold_after = 4
    async with serve() as first:
        body = await ask(first, background=True)
        await pool.wait_for_streams(1)
        await asyncio.sleep(0.1)
    pool.hold_after = None
    pool.reply = _rest_of(pool.reply)
    async with serve() as second:
        assert text_of(await until(second, body["id"], "completed")) == ANSWER


def _rest_of(reply: Reply) -> Reply:
    """A worker continues after the tokens that it gets."""
    return lambda request: reply(request)[len(request.output_token_ids) :]


async def _stored(database: Database, response_id: str, count: int) -> list[Event]:
    """The events that are stored, as soon as there are so many."""
    for _ in range(500):
        events, _ = await ResponseOwnership(database).events(response_id, 0)
        if len(events) >= count:
            return events_of("".join(events))
        await asyncio.sleep(0.01)
    raise AssertionError("too few events")


def _told(events: list[Event]) -> list[object]:
    """What events say, without ids and times; deltas joined."""
    text = "".join(event.data.get("delta", "") for event in events)
    kinds = [event.kind for event in events if event.kind != "output_text.delta"]
    numbers = [event.data["sequence_number"] for event in events]
    assert numbers == list(range(len(numbers)))
    return [text, kinds, len(numbers)]


def _said(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name != "id"}
