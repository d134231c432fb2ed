"""Batches from their creation to their files."""

import asyncio
import json
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.to_worker import BATCH_PRIORITY
from tests.frontend.asking import ANSWER
from tests.frontend.batches.batch_asking import (
    CHAT,
    batch,
    chat_line,
    content,
    create,
    created,
    jsonl,
    upload,
    uploaded,
    wait_for,
)
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool


async def test_every_line_gets_its_answer(client: Client, pool: FakePool) -> None:
    lines = [chat_line(f"line-{n}") for n in range(30)]
    response = await create(client, await uploaded(client, lines), metadata={"a": "b"})
    new = await response.get_json()
    assert new["object"] == "batch"
    assert new["status"] == "validating"
    assert new["metadata"] == {"a": "b"}
    assert new["completion_window"] == "24h"
    assert new["expires_at"] - new["created_at"] == 24 * 3600
    done = await wait_for(client, new["id"])
    assert done["status"] == "completed", done
    assert done["request_counts"] == {"total": 30, "completed": 30, "failed": 0}
    assert done["error_file_id"] is None
    assert done["errors"] is None
    assert done["model"] == "smol"
    assert done["in_progress_at"]
    assert done["finalizing_at"]
    assert done["completed_at"]
    results = await content(client, done["output_file_id"])
    assert {each["custom_id"] for each in results} == {line["custom_id"] for line in lines}
    assert len({each["id"] for each in results}) == 30
    for each in results:
        assert each["error"] is None
        assert each["response"]["status_code"] == 200
        assert each["response"]["request_id"]
        assert each["response"]["body"]["choices"][0]["message"]["content"] == ANSWER
    usage = [each["response"]["body"]["usage"] for each in results]
    assert done["usage"]["input_tokens"] == sum(each["prompt_tokens"] for each in usage)
    assert done["usage"]["output_tokens"] == sum(each["completion_tokens"] for each in usage)
    assert {request.priority for request in pool.requests} == {BATCH_PRIORITY}
    stored = await (await client.get(f"/v1/files/{done['output_file_id']}")).get_json()
    assert stored["purpose"] == "batch_output"


async def test_a_live_request_keeps_its_priority(client: Client, pool: FakePool) -> None:
    await client.post(CHAT, json={"messages": [{"role": "user", "content": "Hi"}]})
    assert pool.requests[0].priority == 0


@pytest.mark.parametrize(
    ("endpoint", "body", "kind"),
    [
        ("/v1/completions", {"prompt": "Hi"}, "text_completion"),
        ("/v1/responses", {"input": "Hi"}, "response"),
    ],
)
async def test_other_endpoints(
    client: Client, endpoint: str, body: dict[str, Any], kind: str
) -> None:
    line = {"custom_id": "a", "method": "POST", "url": endpoint, "body": body}
    done = await wait_for(client, await created(client, [line], endpoint=endpoint))
    (result,) = await content(client, done["output_file_id"])
    assert result["response"]["body"]["object"] == kind
    assert done["usage"]["input_tokens"] > 0
    assert done["usage"]["output_tokens"] > 0


@pytest.mark.parametrize(
    ("endpoint", "body", "bad"),
    [
        ("/v1/embeddings", {"input": ["Hi", "Hello"]}, {"encoding_format": "bytes"}),
        ("/v1/embeddings", {"input": "Hi", "encoding_format": "base64"}, {"input": []}),
        ("/v1/score", {"text_1": "Hi", "text_2": ["Hello"]}, {"text_2": []}),
        ("/rerank", {"query": "Hi", "documents": ["Hello"]}, {"documents": []}),
        ("/pooling", {"input": "Hi"}, {"encoding_format": "bytes_only"}),
    ],
)
async def test_endpoints_of_models_that_pool(
    make_app: MAKE_APP,
    pooling_text: ModelTokenizer,
    pool: FakePool,
    endpoint: str,
    body: dict[str, Any],
    bad: dict[str, Any],
) -> None:
    good = {"custom_id": "a", "method": "POST", "url": endpoint, "body": body}
    lines = [good, {**good, "custom_id": "b", "body": {**body, **bad}}]
    async with make_app(model=pooling_text).test_app() as app:
        client = app.test_client()
        done = await wait_for(client, await created(client, lines, endpoint=endpoint))
        (result, *_) = await content(client, done["output_file_id"])
        assert result["response"]["body"]["usage"]["prompt_tokens"] > 0
        assert done["usage"]["input_tokens"] > 0
        (error,) = await content(client, done["error_file_id"])
    assert error["custom_id"] == "b"
    assert error["response"]["body"]["error"]["param"] in bad
    assert {request.priority for request in pool.encoded} == {BATCH_PRIORITY}


async def test_bad_lines_are_in_the_error_file(client: Client) -> None:
    lines = [chat_line(name) for name in ("good", "bad", "streamed")]
    lines[1]["body"]["temperature"] = -1
    lines[2]["body"]["stream"] = True
    done = await wait_for(client, await created(client, lines))
    assert done["status"] == "completed"
    assert done["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
    (good,) = await content(client, done["output_file_id"])
    assert good["custom_id"] == "good"
    errors = {each["custom_id"]: each for each in await content(client, done["error_file_id"])}
    for name, param in (("bad", "temperature"), ("streamed", "stream")):
        assert errors[name]["error"] is None
        assert errors[name]["response"]["status_code"] == 400
        assert errors[name]["response"]["body"]["error"]["param"] == param


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        (b"{nope\n", "invalid_json_line", None),
        (b'{"a": NaN}\n', "invalid_json_line", None),
        (b"[]\n", "invalid_json_line", None),
        (b"\xff\n", "invalid_json_line", None),
        (jsonl([chat_line("a")]), "duplicate_custom_id", "custom_id"),
        (jsonl([chat_line("b", url="/v1/completions")]), "url_mismatch", "url"),
        (jsonl([chat_line("b", method="GET")]), "invalid_method", "method"),
        (jsonl([chat_line("b", body=3)]), "invalid_request", "body"),
        (jsonl([chat_line("")]), "invalid_request", "custom_id"),
        (jsonl([{**chat_line("b"), "custom_id": None}]), "missing_required_parameter", "custom_id"),
        (jsonl([chat_line("b", body={"model": "nope"})]), "model_not_found", "body.model"),
        (jsonl([chat_line("b", body={"model": [1]})]), "model_not_found", "body.model"),
    ],
)
async def test_an_invalid_file_fails_with_the_line(
    client: Client, pool: FakePool, line: bytes, code: str, param: str | None
) -> None:
    response = await upload(client, jsonl([chat_line("a")]) + b"\n" + line)
    response = await create(client, (await response.get_json())["id"])
    failed = await wait_for(client, (await response.get_json())["id"])
    assert failed["status"] == "failed"
    assert failed["failed_at"]
    (error,) = failed["errors"]["data"]
    assert (error["code"], error["line"], error["param"]) == (code, 3, param)
    assert failed["errors"]["object"] == "list"
    assert not pool.requests
    assert failed["output_file_id"] is None
    assert failed["error_file_id"] is None


async def test_an_empty_file_fails(client: Client) -> None:
    response = await upload(client, b"\n\n")
    response = await create(client, (await response.get_json())["id"])
    failed = await wait_for(client, (await response.get_json())["id"])
    assert failed["errors"]["data"][0]["code"] == "empty_file"
    assert failed["errors"]["data"][0]["line"] is None


async def test_errors_are_bounded(client: Client) -> None:
    response = await upload(client, b"nope\n" * 5000)
    response = await create(client, (await response.get_json())["id"])
    failed = await wait_for(client, (await response.get_json())["id"])
    assert len(failed["errors"]["data"]) == 100


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/nope"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "31d"}, "completion_window"),
        ({"input_file_id": "file-" + "0" * 32}, "input_file_id"),
        ({"input_file_id": "../../etc"}, "input_file_id"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "output_expires_after"),
    ],
)
async def test_bad_creations(client: Client, fields: dict[str, Any], param: str) -> None:
    file_id = await uploaded(client, [chat_line("a")])
    response = await create(client, file_id, **fields)
    assert response.status_code in (400, 404)
    assert param in (await response.get_json())["error"]["param"]


async def test_a_file_of_another_purpose_is_no_input(client: Client) -> None:
    response = await upload(client, b"{}", purpose="user_data")
    response = await create(client, (await response.get_json())["id"])
    assert response.status_code == 400
    assert (await response.get_json())["error"]["param"] == "input_file_id"


async def test_cancel_keeps_what_is_done(client: Client, pool: FakePool) -> None:
    pool.hold_after, pool.hold_from = 1, 20  # those after the first 20 do not end
    batch_id = await created(client, [chat_line(f"line-{n}") for n in range(400)])
    while (await batch(client, batch_id))["request_counts"]["completed"] < 5:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await pool.wait_for_streams(21)
    response = await client.post(f"/v1/batches/{batch_id}/cancel")
    assert (await response.get_json())["status"] == "cancelling"
    ended = await wait_for(client, batch_id, timeout_s=5)
    assert ended["status"] == "cancelled"
    assert ended["cancelling_at"]
    assert ended["cancelled_at"]
    counts = ended["request_counts"]
    assert counts["completed"] >= 5
    assert counts["completed"] + counts["failed"] == 400
    assert len(await content(client, ended["output_file_id"])) == counts["completed"]
    errors = await content(client, ended["error_file_id"])
    assert len(errors) == counts["failed"]
    assert {each["error"]["code"] for each in errors} == {"batch_cancelled"}
    assert all(stream.cancelled for stream in pool.streams[-1:])
    response = await client.post(f"/v1/batches/{batch_id}/cancel")
    assert response.status_code == 409


async def test_an_expired_batch_keeps_what_is_done(client: Client, pool: FakePool) -> None:
    pool.hold_after = 3
    batch_id = await created(
        client, [chat_line(f"line-{n}") for n in range(9)], completion_window="1s"
    )
    ended = await wait_for(client, batch_id)
    assert ended["status"] == "expired"
    assert ended["expired_at"]
    assert ended["request_counts"] == {"total": 9, "completed": 0, "failed": 9}
    errors = await content(client, ended["error_file_id"])
    assert {each["error"]["code"] for each in errors} == {"batch_expired"}
    assert all(each["response"] is None for each in errors)


async def test_a_deleted_input_is_still_run(client: Client, pool: FakePool) -> None:
    pool.hold_after = 3
    file_id = await uploaded(client, [chat_line(f"line-{n}") for n in range(100)])
    new = await (await create(client, file_id)).get_json()
    await pool.wait_for_streams(1)
    await client.delete(f"/v1/files/{file_id}")
    pool.hold_after = None
    pool.release.set()
    done = await wait_for(client, new["id"])
    assert done["request_counts"]["completed"] == 100


async def test_batches_are_listed_by_pages(client: Client) -> None:
    ids = [await created(client, [chat_line("a")]) for _ in range(3)]
    first = await (await client.get("/v1/batches?limit=2")).get_json()
    assert [each["id"] for each in first["data"]] == [ids[2], ids[1]]
    assert first["has_more"]
    assert first["last_id"] == ids[1]
    assert first["first_id"] == ids[2]
    second = await (await client.get(f"/v1/batches?limit=2&after={ids[1]}")).get_json()
    assert [each["id"] for each in second["data"]] == [ids[0]]
    assert not second["has_more"]
    assert (await client.get("/v1/batches?after=nope")).status_code == 400


async def test_unknown_batches(client: Client) -> None:
    for path in ("nope", "batch_" + "0" * 32, "..%2f..%2fetc"):
        assert (await client.get(f"/v1/batches/{path}")).status_code == 404
        assert (await client.post(f"/v1/batches/{path}/cancel")).status_code == 404


async def test_a_temporary_store_warns(client: Client) -> None:
    response = await create(client, await uploaded(client, [chat_line("a")]))
    assert "--file-dir" in response.headers["X-Headrace-Warning"]


async def test_a_lasting_store_does_not_warn(serve: Any, tmp_path: Any) -> None:
    settings = {
        "file_dir": tmp_path.with_name(tmp_path.name + "-files"),
        "response_store_url": f"sqlite:///{tmp_path.with_name(tmp_path.name + '.db')}",
    }
    async with serve(**settings) as client:
        response = await create(client, await uploaded(client, [chat_line("a")]))
        assert "X-Headrace-Warning" not in response.headers


async def test_metrics_count_batches_and_lines(client: Client) -> None:
    await wait_for(client, await created(client, [chat_line("a"), chat_line("b")]))
    await asyncio.sleep(0.2)
    text = await (await client.get("/metrics")).get_data(as_text=True)
    assert 'headrace:batches{status="completed"} 1.0' in text
    assert 'headrace:batch_lines_total{outcome="completed"} 2.0' in text
    assert 'headrace:batch_lines_total{outcome="failed"} 0.0' in text


async def test_a_long_line_is_an_error(serve: Any) -> None:
    async with serve(max_body_bytes=20_000) as client:
        lines = [chat_line("a"), chat_line("b", body={"x": "y" * 100_000}), chat_line("c")]
        failed = await wait_for(client, await created(client, lines))
        (error,) = failed["errors"]["data"]
        assert (error["code"], error["line"]) == ("invalid_json_line", 2)


def test_lines_are_json() -> None:
    assert json.loads(jsonl([chat_line("a")]))["custom_id"] == "a"
