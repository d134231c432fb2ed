"""Requests that an operator ends, by what their clients know them by."""

import asyncio
import json
from typing import Any

import pytest

from headrace.frontend.abortable import ABORTED, Abortable
from headrace.frontend.errors import Unavailable
from headrace.frontend.generation.prompts import completion_prompts
from headrace.frontend.middleware.request_scope import RequestScope
from headrace.frontend.routes import completions
from tests.frontend.asgi import post
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool


def test_names_of_a_request_and_of_its_answer() -> None:
    abortable, ended = Abortable(), []
    one, two = RequestScope("one", 0.0), RequestScope("two", 0.0)
    one.names.add("cmpl-1")
    abortable.watch(one, "a", lambda error: ended.append(("one", str(error))))
    abortable.watch(two, "b", lambda error: ended.append(("two", str(error))))
    abortable.with_name("resp_3").watch(
        None, "b", lambda error: ended.append(("three", str(error)))
    )
    assert abortable.abort(["cmpl-1", "nobody"]) == ["cmpl-1"]
    assert abortable.abort(["two"], group="a") == []
    assert abortable.abort(["resp_3", "two"], group="b") == ["resp_3", "two"]
    assert ended == [("one", ABORTED), ("two", ABORTED), ("three", ABORTED)]
    assert abortable.abort(None) == ["one", "resp_3", "two"]


def test_what_has_ended_is_unknown() -> None:
    abortable = Abortable()
    forget = abortable.watch(RequestScope("one", 0.0), "a", lambda error: None)
    forget()
    forget()
    assert abortable.abort(["one"]) == []
    assert abortable.abort(None) == []


BODIES = [
    ("/v1/completions", {"prompt": "Hi", "n": 2}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
]


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_a_whole_answer_becomes_an_error(
    make_app: MAKE_APP, pool: FakePool, path: str, body: dict[str, Any]
) -> None:
    pool.hold_after = 2
    abortable = Abortable()
    exchange = post(make_app(abortable=abortable), path, body)
    await pool.wait_for_streams(body.get("n", 1))
    await asyncio.sleep(0.05)
    assert len(abortable.abort(None)) == 1
    await exchange.finish()
    assert exchange.status == Unavailable.status
    assert json.loads(b"".join(exchange.chunks))["error"]["message"] == ABORTED
    assert all(stream.cancelled for stream in pool.streams)


async def test_a_request_whose_prompt_is_still_being_read(
    make_app: MAKE_APP, pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(*args: Any) -> Any:
        reads.set()
        await goes_on.wait()
        return await completion_prompts(*args)

    monkeypatch.setattr(completions, "completion_prompts", slow)
    abortable = Abortable()
    exchange = post(make_app(abortable=abortable), "/v1/completions", {"prompt": "Hi"})
    await reads.wait()
    assert abortable.abort(None, group="another") == []
    assert len(abortable.abort(None, group="main")) == 1
    goes_on.set()
    await exchange.finish()
    assert exchange.status == Unavailable.status
    assert pool.requests == []
    assert abortable.abort(None) == []
