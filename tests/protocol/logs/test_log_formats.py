"""The two formats of the log: one line for each record, whatever its text holds."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from headrace.protocol.logs.safe_text import MAX_EXCEPTION_CHARS, one_line
from tests.protocol.logs.logging_processes import lines_of, objects_of, run

RECORD = re.compile(r"\d\d:\d\d:\d\d [A-Z]+ +chat-0\.1 +")
HOSTILE = [
    "\n12:00:00 INFO    chat-0.1       a false record",
    "\r12:00:00 INFO    chat-0.1       a false record",
    "\x1b[31mred\x1b[0m",
    "\x9b31mred",
    "\x85next line",
    "\u2028next line",
    "\u202eturned",
    "\ud800",
    "\x00\x07\x08",
]


def test_json_has_an_object_for_each_record() -> None:
    (found,) = objects_of('log.warning("%d of %s", 3, "four")')
    assert found | {"time": "", "pid": 0} == {
        "time": "",
        "level": "WARNING",
        "process": "chat-0.1",
        "pid": 0,
        "logger": "headrace.frontend",
        "message": "3 of four",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["time"])
    at = datetime.fromisoformat(found["time"])
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=2)


def test_records_name_their_request_until_it_ends() -> None:
    program = """
import asyncio
from headrace.protocol.logs.record import LoggedRequest

async def later():
    await asyncio.sleep(0.01)
    log.info("later")

async def answer():
    request = LoggedRequest("req-1")
    task = asyncio.create_task(later())
    log.info("now")
    request.end()
    await task

asyncio.run(answer())
"""
    now, later = objects_of(program)
    assert now["request_id"] == "req-1"
    assert "request_id" not in later
    lines = lines_of(program)
    assert [line.split("chat-0.1")[1].strip() for line in lines] == ["now [req-1]", "later"]


def test_json_holds_the_traceback_in_its_object() -> None:
    program = """
try:
    raise ValueError("first\\nsecond")
except ValueError:
    log.exception("it failed")
"""
    (found,) = objects_of(program)
    assert found["message"] == "it failed"
    assert "Traceback" in found["exception"]
    assert "ValueError: first" in found["exception"]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_text_of_a_client_stays_in_its_line(log_format: str) -> None:
    program = f"for text in {HOSTILE!r}:\n  log.warning('field %s is unknown', text)"
    lines = lines_of(program, log_format=log_format)
    assert len(lines) == len(HOSTILE)
    for line in lines:
        assert line.isprintable()
        assert json.loads(line) if log_format == "json" else RECORD.match(line)


def test_exception_with_text_of_a_client_makes_no_record() -> None:
    program = f"""
for text in {HOSTILE!r}:
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("it failed")
"""
    lines = lines_of(program)
    assert all(line.isprintable() for line in lines)
    assert len([line for line in lines if RECORD.match(line)]) == len(HOSTILE)
    others = [line for line in lines if not RECORD.match(line)]
    assert len(others) >= 3 * len(HOSTILE)
    assert all(line.startswith("  | ") for line in others)


def test_a_long_exception_is_cut() -> None:
    program = """
try:
    raise ValueError("x" * 1_000_000)
except ValueError:
    log.exception("it failed")
"""
    assert len("".join(lines_of(program))) < 2 * MAX_EXCEPTION_CHARS


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_secrets_are_hidden(log_format: str) -> None:
    texts = [
        "cannot open postgresql+psycopg://user:s3cret@db/store",
        "http://user:a@s3cret@host/x failed",
        "GET https://host/x?api_key=s3cret&a=1",
        "Authorization: Bearer s3cret",
        "{'authorization': 'Bearer s3cret-key'}",
        "[(b'authorization', b'Bearer s3cret-key')]",
        "x-api-key: s3cret",
        "sent 'Bearer s3cret-key' to it",
    ]
    program = f"""
for text in {texts!r}:
    log.warning("%s", text)
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("it failed")
"""
    written = run(program, log_format=log_format).stderr
    assert written.count("***") >= 2 * len(texts)
    assert "s3cret" not in written


def test_ordinary_text_stays_as_it_is() -> None:
    text = "a bearer of news, keys and tokens: http://host/path?x=1 and me@example.org: 日本語 👩‍💻"
    assert one_line(text) == text


@pytest.mark.parametrize("unit", ["a", "://", "x://", "@", "?a", "authorization:", "bearer ", " "])
def test_hiding_secrets_takes_linear_time(unit: str) -> None:
    """A quadratic search would take minutes for so long a text."""
    text = unit * (400_000 // len(unit)) + "\n"
    started = datetime.now(UTC)
    one_line(text)
    assert datetime.now(UTC) - started < timedelta(seconds=5)


@pytest.mark.parametrize(
    "program",
    [
        'raise RuntimeError("x")',
        "import threading\nthread = threading.Thread(target=lambda: 1 / 0)\nthread.start()",
        'import warnings\nwarnings.warn("old")',
        "class A:\n  def __del__(self):\n    1 / 0\na = A()\ndel a",
        'log.info("%d", "no number")',
        "import asyncio\nasync def f():\n  asyncio.get_running_loop().call_soon(lambda: 1 / 0)\n"
        "  await asyncio.sleep(0.01)\nasyncio.run(f())",
    ],
)
def test_everything_that_a_process_says_is_json(program: str) -> None:
    assert objects_of(program)


def test_library_with_a_handler_of_its_own_writes_one_json_line() -> None:
    program = """
from headrace.protocol.logs.set_up import adopt_library_loggers
library = logging.getLogger("library")
library.addHandler(logging.StreamHandler())
library.propagate = False
adopt_library_loggers()
library.warning("hello")
"""
    (found,) = objects_of(program)
    assert (found["logger"], found["message"]) == ("library", "hello")
