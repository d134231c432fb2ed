"""The access log: a line for each answered request."""

import logging
import re
from typing import Any

import pytest

from tests.frontend.asgi import post
from tests.frontend.asking import QUESTION
from tests.frontend.conftest import MAKE_APP

CHAT = "/v1/chat/completions"
LINE = re.compile(r'(\S+) - "(\S+) (\S+) HTTP/\S+" (\d+) (\d+) B (\d\.\d{3}) s')


def fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in ("method", "path", "status", "bytes", "key")}


async def test_line_names_request_and_answer(
    make_app: MAKE_APP, records: list[logging.LogRecord]
) -> None:
    client = make_app(access_log=True).test_client()
    response = await client.get("/v1/models?api_key=s3cret", headers={"X-Request-Id": "mine"})
    size = len(await response.get_data())
    (record,) = records
    found = LINE.fullmatch(record.getMessage())
    assert found
    assert found.groups()[1:5] == ("GET", "/v1/models", "200", str(size))
    assert fields(record) == {
        "method": "GET",
        "path": "/v1/models",
        "status": 200,
        "bytes": size,
        "key": None,
    }
    assert "s3cret" not in str(record.__dict__)


async def test_bytes_of_a_stream_are_counted(
    make_app: MAKE_APP, records: list[logging.LogRecord]
) -> None:
    exchange = post(make_app(access_log=True), CHAT, {"messages": QUESTION, "stream": True})
    await exchange.finish()
    assert fields(records[0])["bytes"] == sum(map(len, exchange.chunks)) > 0


async def test_paths_can_be_left_out(make_app: MAKE_APP, records: list[logging.LogRecord]) -> None:
    app = make_app(access_log_except="/health,/metrics", root_path="/base")
    for path in ("/health", "/health?verbose", "/base/health", "/metrics", "/v1/models", "/nope"):
        await app.test_client().get(path)
    assert [fields(line)["path"] for line in records] == ["/v1/models", "/nope"]
    assert fields(records[1])["status"] == 404


@pytest.mark.parametrize("options", [{}, {"access_log": False, "access_log_except": "/health"}])
async def test_off(
    make_app: MAKE_APP, records: list[logging.LogRecord], options: dict[str, Any]
) -> None:
    await make_app(**options).test_client().get("/v1/models")
    assert not records


async def test_level_of_the_http_log_above_info_turns_it_off(
    make_app: MAKE_APP, records: list[logging.LogRecord]
) -> None:
    client = make_app(access_log=True, http_log_level="warning").test_client()
    await client.get("/v1/models")
    assert not records


@pytest.mark.parametrize(
    "path", ["/a%0ab%1b[31m", '/a" 200 5 B "GET /b', "/" + "x" * 5000, "/a\x9bb"]
)
async def test_path_cannot_leave_its_field(
    make_app: MAKE_APP, records: list[logging.LogRecord], path: str
) -> None:
    client = make_app(access_log=True).test_client()
    await client.get(path)
    (record,) = records
    message = record.getMessage()
    assert message.isprintable()
    assert LINE.fullmatch(message)
    assert len(message) < 700
    assert str(record.__dict__["path"]).isprintable()
