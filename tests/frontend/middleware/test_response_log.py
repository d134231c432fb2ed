"""The bodies of answers in the log, for an operator who looks for an error."""

import logging

import pytest

from headrace.frontend.middleware.response_text import MAX_CHARS, StreamText, WholeText
from tests.frontend.asgi import post
from tests.frontend.asking import ANSWER, QUESTION, ask
from tests.frontend.conftest import MAKE_APP


async def test_body_is_logged_in_one_line(
    make_app: MAKE_APP, records: list[logging.LogRecord]
) -> None:
    await ask(make_app(log_responses=True).test_client())
    (record,) = records
    message = record.getMessage()
    assert ", 200 " not in message
    assert ": 200, '{" in message
    assert ANSWER in message


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": QUESTION}),
        ("/v1/completions", {"prompt": "Hello"}),
        ("/v1/responses", {"input": "Hello", "store": False}),
        ("/v1/messages", {"model": "smol", "messages": QUESTION, "max_tokens": 50}),
    ],
)
async def test_stream_is_joined_to_one_line(
    make_app: MAKE_APP, records: list[logging.LogRecord], path: str, body: dict[str, object]
) -> None:
    exchange = post(make_app(log_responses=True), path, {**body, "stream": True})
    await exchange.finish()
    (record,) = records
    assert repr(ANSWER) in record.getMessage()
    assert "\n" not in record.getMessage()


async def test_errors_are_logged(make_app: MAKE_APP, records: list[logging.LogRecord]) -> None:
    await make_app(log_responses=True).test_client().get("/nope")
    assert ": 404, '{" in records[0].getMessage()


async def test_off_by_default(make_app: MAKE_APP, records: list[logging.LogRecord]) -> None:
    await ask(make_app().test_client())
    assert not records


def test_long_bodies_are_cut() -> None:
    text = WholeText()
    for _ in range(100):
        text.add(b"x" * 1000)
    assert len(text.describe()) < MAX_CHARS + 100
    assert text.describe().endswith(f"... ({100_000 - MAX_CHARS} more bytes)")


def test_long_streams_are_cut() -> None:
    text = StreamText()
    for _ in range(1000):
        text.add(b'data: {"choices": [{"index": 0, "text": "' + b"x" * 100 + b'"}]}\n\n')
    described = text.describe()
    assert described.startswith("1000 events, text: 'xxx")
    assert len(described) < MAX_CHARS + 200
    assert described.endswith(f"{100_000 - MAX_CHARS} more characters")


def test_events_in_pieces_are_joined() -> None:
    data = 'data: {"choices":[{"index":1,"delta":{"content":"é"}}]}\n\ndata: [DONE]\n\n'.encode()
    text = StreamText()
    for index in range(len(data)):
        text.add(data[index : index + 1])
    assert text.describe() == "2 events, content[1]: 'é'"


def test_a_stream_without_ends_of_events_takes_bounded_memory() -> None:
    text = StreamText()
    for _ in range(40):
        text.add(b"x" * 100_000)
    assert len(text._rest) <= 1024 * 1024


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"\xff" * 100_000])
def test_other_data_than_text_is_only_counted(data: bytes) -> None:
    text = WholeText()
    text.add(data)
    assert text.describe() == f"{len(data)} bytes that are no text"
