"""Transcriptions end with their client, their deadline, an operator's word or the frontend; keys'
limits and fairness hold for them."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from headrace.frontend.pool.interface import PoolBusy
from headrace.frontend.process.drain import Drain
from headrace.protocol.to_frontend import Output
from headrace.protocol.to_worker import Generate
from tests.frontend.asgi import Exchange
from tests.frontend.fake_pool import FakePool
from tests.frontend.speech.conftest import MakeClient, form, multipart
from tests.frontend.speech.models import PATH, FakeRecordings, window_of
from tests.frontend.speech.test_transcriptions import body_of, refused
from tests.security.keys_of_tenants import ANN, BOB, KeyClient, key_table

TWO = [(0.0, 20.0), (21.0, 20.0)]


def begin(client: Any, **fields: Any) -> Exchange:
    sent = multipart([("language", "en"), *fields.items()])
    headers = {name.lower(): value for name, value in sent["headers"].items()}
    return Exchange(client.app, PATH, sent["data"], headers)


@pytest.mark.parametrize("stream", ["true", "false"])
async def test_a_client_that_leaves_frees_its_windows(
    make_client: MakeClient,
    pool: FakePool,
    recordings: FakeRecordings,
    stream: str,
    tmp_path: Path,
) -> None:
    recordings.windows = TWO
    client = make_client([" The capital", " of France"])
    pool.hold_after = 1
    exchange = begin(client, stream=stream)
    await pool.wait_for_streams(2)
    if stream == "true":
        await exchange.wait_for_chunks(1)
    await exchange.disconnect()
    await asyncio.sleep(0.01)
    assert [each.cancelled for each in pool.streams] == [True, True]
    assert list((tmp_path / "audio").iterdir()) == []


async def test_a_deadline(
    make_client: MakeClient, pool: FakePool, recordings: FakeRecordings
) -> None:
    recordings.windows = TWO
    client = make_client([" The capital", " of France"])
    pool.hold_after = 0
    fields = form(language="en")
    response = await client.post(PATH, headers={"X-Request-Timeout-Ms": "50"}, **fields)
    assert response.status_code == 504
    assert [each.cancelled for each in pool.streams] == [True, True]


async def test_a_frontend_that_ends(make_client: MakeClient, pool: FakePool) -> None:
    drain = Drain()
    client = make_client(settings={"drain": drain})
    pool.hold_after = 0
    exchange = begin(client)
    await pool.wait_for_streams(1)
    ending = asyncio.create_task(drain.finish(0.05))
    await exchange.finish()
    await ending
    assert exchange.status == 503
    assert pool.streams[0].cancelled
    assert (await refused(client))[0] == 503


async def test_one_window_that_fails_ends_all(
    make_client: MakeClient, pool: FakePool, recordings: FakeRecordings
) -> None:
    recordings.windows = TWO
    client = make_client([" The capital", " of France"])
    unchanged = pool.change

    def change(request: Generate, output: Output) -> Output:
        if window_of(request) == 0:
            raise RuntimeError("a worker broke")
        return unchanged(request, output)

    pool.change, pool.hold_from, pool.hold_after = change, 1, 0
    assert (await refused(client, language="en"))[0] == 500
    await asyncio.sleep(0.01)
    assert pool.streams[1].cancelled


async def test_a_pool_that_fills_up_is_waited_for(
    make_client: MakeClient, pool: FakePool, recordings: FakeRecordings
) -> None:
    recordings.windows = TWO
    client = make_client([" The capital", " of France"])
    unchanged, refusals, accepted = pool.change, [PoolBusy("full", 0.01)] * 3, asyncio.Event()

    def change(request: Generate, output: Output) -> Output:
        if window_of(request) == 1 and refusals:
            raise refusals.pop()
        if window_of(request) == 1:
            accepted.set()
        return unchanged(request, output)

    pool.change, pool.hold_after = change, 1
    waiting = asyncio.create_task(body_of(client, language="en"))
    await asyncio.wait_for(accepted.wait(), 5)
    assert not refusals
    pool.release.set()
    assert (await waiting)["text"] == "The capital of France"


async def test_windows_at_once_are_bounded(
    make_client: MakeClient, pool: FakePool, recordings: FakeRecordings
) -> None:
    recordings.windows = [(float(start), 1.0) for start in range(5)]
    client = make_client([" The"] * 5, settings={"max_audio_windows": 2})
    pool.hold_after = 0
    waiting = asyncio.create_task(body_of(client, language="en"))
    await pool.wait_for_streams(2)
    await asyncio.sleep(0.05)
    assert len(pool.streams) == 2
    pool.release.set()
    assert (await waiting)["text"] == "The The The The The"


async def test_limits_of_keys(
    make_client: MakeClient, pool: FakePool, recordings: FakeRecordings
) -> None:
    recordings.windows = TWO
    table = key_table(tokens_per_minute=600)
    texts = [" The capital" * 4, " of France" * 4]
    client = make_client(texts, settings={"keys": table})
    ann, bob = KeyClient(client, ANN), KeyClient(client, BOB)
    first = await ann.post(PATH, **form(language="en"))
    assert first.status_code == 200
    assert {request.tenant for request in pool.requests} == {"ann"}
    used = sum(len(request.prompt_token_ids) for request in pool.requests)
    used += len(pool.reply(pool.requests[0])) + len(pool.reply(pool.requests[1]))
    assert int(first.headers["x-ratelimit-remaining-tokens"]) == 600 - used
    while first.status_code == 200:
        first = await ann.post(PATH, **form(language="en"))
    assert first.status_code == 429
    assert (await first.get_json())["error"]["type"] == "tokens"
    assert (await bob.post(PATH, **form(language="en"))).status_code == 200
    assert (await client.post(PATH, **form(language="en"))).status_code == 401


async def test_requests_of_keys_are_counted(make_client: MakeClient) -> None:
    client = make_client(settings={"keys": key_table(requests_per_minute=1)})
    ann = KeyClient(client, ANN)
    assert (await ann.post(PATH, **form(language="en"))).status_code == 200
    assert (await ann.post(PATH, **form(language="en"))).status_code == 429


async def test_what_encoders_make_is_shared_within_a_tenant(
    make_client: MakeClient, pool: FakePool
) -> None:
    client = make_client(settings={"keys": key_table()})
    for secret in (ANN, ANN, BOB):
        await KeyClient(client, secret).post(PATH, **form(language="en"))
    digests = [request.audio.digest for request in pool.requests if request.audio is not None]
    assert digests[0] == digests[1] != digests[2]


async def test_logs(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture, pool: FakePool
) -> None:
    caplog.set_level("INFO")
    await body_of(make_client(), language="en", prompt="Hello")
    assert "capital" not in caplog.text
    settings = {"enable_log_requests": True, "enable_log_outputs": True}
    await body_of(make_client(settings=settings), language="en", prompt="Hello")
    lines = [record.getMessage() for record in caplog.records]
    assert any("received" in line and "'Hello'" in line for line in lines)
    assert any("answered" in line and "The capital of France." in line for line in lines)


async def test_a_pool_without_such_models_reads_no_file(make_app: Any, pool: FakePool) -> None:
    app = make_app()
    headers = {"content-type": "multipart/form-data; boundary=x", "content-length": "9999"}
    exchange = Exchange(app, PATH, b"--x\r\n", headers, has_more=True)
    with contextlib.suppress(asyncio.CancelledError):
        await exchange.finish()
    assert exchange.status == 404


async def test_recordings_take_turns(
    make_client: MakeClient, pool: FakePool, recordings: FakeRecordings
) -> None:
    recordings.windows = [(0.0, 20.0), (21.0, 20.0)]
    client = make_client([" What", " is"])
    for fields in ({}, {}, {"user": "ann"}):
        assert (await client.post(PATH, **form(language="en", **fields))).status_code == 200
    owners = [(each.tenant, each.user) for each in pool.requests]
    first, second, named = owners[::2]
    assert owners[1::2] == [first, second, named]  # of all windows
    assert first[0] == second[0]
    assert named[0] == "ann"
    assert first[1] != second[1]
