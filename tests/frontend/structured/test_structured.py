"""Structured outputs: from a request's fields to the grammar that a worker gets."""

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from llguidance import LLMatcher, LLTokenizer
from quart.typing import TestClientProtocol as Client

from headrace.frontend.errors import BadRequest
from headrace.frontend.schemas.structured import ResponseFormat, StructuredOutputs
from headrace.frontend.structured import checker as checker_module
from headrace.frontend.structured.checker import Checker
from headrace.frontend.structured.checker_pool import (
    CheckerPool,
    CheckerUnavailable,
    CheckTooExpensive,
)
from headrace.frontend.structured.constraint import (
    Constraint,
    json_schema,
    request_constraint,
)
from headrace.frontend.structured.grammar_cache import GrammarCache
from headrace.frontend.structured.normalise import grammar_text
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.common.grammar_compiler import load_tokenizer
from headrace.protocol.text import TextInfo
from tests.frontend.fake_pool import FakePool
from tests.frontend.structured.shared_checkers import settled
from tests.frontend.text.tokenizers_for_tests import EOS
from tests.stand_ins.sitecustomize import ALLOCATES, DIES, SLEEPS, python_path

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT = {"model": "smol", "messages": [{"role": "user", "content": "Paris?"}], "max_tokens": 9}


def regex(pattern: str) -> Constraint:
    return Constraint("regex", pattern, "structured_outputs.regex")


@pytest.fixture
def one_checker() -> Iterator[CheckerPool]:
    started = CheckerPool(1)
    yield started
    started.close()


@pytest.fixture
def model(text_path: Path) -> str:
    return str(text_path)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"response_format": {"type": "json_object"}}, "json_object"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": CITY, "strict": True},
                }
            },
            "json_schema",
        ),
        ({"structured_outputs": {"json": CITY}}, "json_schema"),
        ({"structured_outputs": {"json": json.dumps(CITY)}}, "json_schema"),
        ({"structured_outputs": {"json_object": True}}, "json_object"),
        ({"structured_outputs": {"regex": r"^\d{3}$"}}, "regex"),
        ({"structured_outputs": {"choice": ["a", "b\n", '"']}}, "choice"),
        ({"structured_outputs": {"grammar": 'start: "a" | "b"'}}, "grammar"),
        ({"structured_outputs": {"grammar": 'root ::= "a" b\nb ::= "b" | "c"'}}, "grammar"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": CITY},
                },
                "structured_outputs": {"disable_any_whitespace": True},
            },
            "json_schema",
        ),
        (
            {
                "response_format": {
                    "type": "structural_tag",
                    "structures": [{"begin": "<f=a>", "schema": CITY, "end": "</f>"}],
                    "triggers": ["<f="],
                }
            },
            "structural_tag",
        ),
        (
            {
                "response_format": {
                    "type": "structural_tag",
                    "format": {"type": "const_string", "value": "Paris"},
                }
            },
            "structural_tag",
        ),
    ],
)
@pytest.mark.parametrize("route", ["chat/completions", "completions"])
async def test_the_worker_is_given_a_grammar(
    client: Client, pool: FakePool, fields: dict[str, Any], kind: str, route: str
) -> None:
    body = {**CHAT, "prompt": "Paris?"}
    del body["messages" if route == "completions" else "prompt"]
    answer = await client.post(f"/v1/{route}", json={**body, **fields})
    assert answer.status_code == 200, await answer.get_data()
    grammar = pool.requests[0].grammar
    assert grammar is not None
    assert grammar.kind == kind
    assert grammar.after == ()


@pytest.mark.parametrize("fields", [{}, {"response_format": {"type": "text"}}])
async def test_without_a_constraint_anything_goes(
    client: Client, pool: FakePool, fields: dict[str, Any]
) -> None:
    answer = await client.post("/v1/chat/completions", json={**CHAT, **fields})
    assert answer.status_code == 200
    assert pool.requests[0].grammar is None


async def test_all_choices_are_given_the_same_grammar(client: Client, pool: FakePool) -> None:
    fields = {"n": 3, "temperature": 1, "structured_outputs": {"regex": "a|b"}}
    await client.post("/v1/chat/completions", json={**CHAT, **fields})
    assert len({one.grammar for one in pool.requests}) == 1
    assert len(pool.requests) == 3


async def test_a_text_that_is_complete_ends_with_its_last_token(
    client: Client, pool: FakePool, text: ModelTokenizer
) -> None:
    tokens = text.backend.encode("Paris", add_special_tokens=False).ids
    pool.reply, pool.reason = lambda request: list(tokens), "complete"
    answer = await client.post("/v1/chat/completions", json=CHAT)
    choice = (await answer.get_json())["choices"][0]
    assert choice["message"]["content"] == "Paris"
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", None)


BAD = [
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format"),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "nonsense"}},
            }
        },
        "response_format: Invalid type: nonsense",
    ),
    ({"response_format": {"type": "structural_tag"}}, "response_format"),
    ({"structured_outputs": {}}, "structured_outputs"),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
    (
        {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
        "structured_outputs",
    ),
    ({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex"),
    ({"structured_outputs": {"regex": "(?=a)b"}}, "structured_outputs.regex"),
    ({"structured_outputs": {"regex": 3}}, "structured_outputs.regex"),
    ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
    ({"structured_outputs": {"choice": [1]}}, "structured_outputs.choice"),
    ({"structured_outputs": {"choice": ["a"] * 20_000}}, "structured_outputs.choice"),
    ({"structured_outputs": {"grammar": "start: x"}}, "structured_outputs.grammar"),
    ({"structured_outputs": {"grammar": "no rules"}}, "structured_outputs.grammar"),
    ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
    ({"structured_outputs": {"json": {"type": "array", "uniqueItems": True}}}, "uniqueItems"),
    ({"structured_outputs": {"json": {"$ref": "http://127.0.0.1:1/x"}}}, "structured_outputs.json"),
    ({"structured_outputs": {"json": {"$ref": "file:///etc/passwd"}}}, "structured_outputs.json"),
    ({"structured_outputs": {"json": {"$ref": "#"}}}, "structured_outputs.json"),
    ({"structured_outputs": {"json": {"x" * 600_000: 1}}}, "structured_outputs.json"),
    ({"structured_outputs": {"structural_tag": '{"format": {"type": "no"}}'}}, "'no'"),
    ({"structured_outputs": {"nothing": 1}}, "structured_outputs"),
]


@pytest.mark.parametrize(("fields", "named"), BAD)
async def test_what_cannot_be_followed_is_named(
    client: Client, pool: FakePool, fields: dict[str, Any], named: str
) -> None:
    answer = await client.post("/v1/chat/completions", json={**CHAT, **fields})
    error = (await answer.get_json())["error"]
    assert answer.status_code == 400, error
    assert named in error["message"]
    assert len(error["message"]) < 500
    assert not any(leak in error["message"] for leak in ("Traceback", "/work", "0x", "\n", ".rs"))
    assert not pool.requests


async def test_deep_schemas_are_refused_before_anybody_reads_them() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"items": deep}
    with pytest.raises(BadRequest, match="more than 96 deep"):
        json_schema(deep, "response_format")


def test_options_go_with_either_field() -> None:
    asked = ResponseFormat.model_validate({"type": "json_object"})
    options = {"disable_any_whitespace": True, "disable_additional_properties": True}
    found = request_constraint(asked, StructuredOutputs.model_validate(options))
    assert found is not None
    assert (found.kind, found.any_whitespace, found.is_closed) == ("json_object", False, True)


def test_closed_objects_have_no_more_properties_than_are_named() -> None:
    schema = {"properties": {"a": CITY, "b": {"additionalProperties": True, "properties": {}}}}
    text = grammar_text(replace(json_schema(schema, "x"), is_closed=True))
    closed = json.loads(text)["grammars"][0]["json_schema"]
    assert closed["additionalProperties"] is False
    assert closed["properties"]["a"]["additionalProperties"] is False
    assert closed["properties"]["b"]["additionalProperties"] is True


@pytest.mark.parametrize(
    ("text", "deadline_s", "reason"),
    [
        (SLEEPS, 3, "it takes too long to compile"),
        (ALLOCATES, 60, "it is too large"),
        (DIES, 60, "it takes too much memory to compile"),
    ],
)
async def test_a_compiler_that_takes_too_much_is_given_up_and_harms_no_other(
    model: str, monkeypatch: pytest.MonkeyPatch, text: ModelTokenizer, deadline_s: int, reason: str
) -> None:
    """The compiler is a stand-in that does as a grammar says (tests/stand_ins)."""
    monkeypatch.setenv("PYTHONPATH", python_path())
    costly = json_schema({"const": text}, "costly")
    with closing(CheckerPool(2, deadline_s)) as checkers:
        compiler = GrammarCache(checkers)
        asked = asyncio.create_task(compiler.compile(model, costly))
        others = await asyncio.gather(*(compiler.compile(model, regex(f"a{n}")) for n in range(8)))
        assert len(others) == 8
        with pytest.raises(BadRequest, match=f"costly: {reason}"):
            await asked
        assert (await compiler.compile(model, regex("after"))).kind == "regex"


class SlowMatcher:
    """Takes processor time for each mask, and allows one token."""

    def __init__(self, seconds: float, is_in_error: bool = False) -> None:
        self._seconds, self._is_in_error = seconds, is_in_error

    def compute_bitmask(self) -> bytes:
        until_s = time.thread_time() + self._seconds
        while time.thread_time() < until_s:
            pass
        return b"\x00\x01"

    def is_error(self) -> bool:
        return self._is_in_error

    def get_error(self) -> str:
        return "nothing may come next"

    def consume_token(self, token_id: int) -> None:
        assert token_id == 8

    def is_stopped(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("matcher", "answer"),
    [
        (SlowMatcher(0.0), {"text": LLMatcher.grammar_from_regex("a")}),
        (SlowMatcher(0.15), {"error": "it is too expensive to follow"}),
        (SlowMatcher(0.0, True), {"error": "no text conforms to it: nothing may come next"}),
    ],
    ids=["cheap", "expensive", "in error"],
)
def test_a_text_is_begun_to_see_what_its_masks_cost(
    monkeypatch: pytest.MonkeyPatch, matcher: SlowMatcher, answer: dict[str, str]
) -> None:
    monkeypatch.setattr(checker_module, "compile_grammar", lambda *_: matcher)
    checker = Checker()
    checker._tokenizers["m"] = cast(LLTokenizer, object())
    assert checker.answer({"model": "m", "constraint": asdict(regex("a"))}) == answer


async def test_a_check_that_takes_too_long_is_given_up(model: str) -> None:
    checkers = CheckerPool(1, deadline_s=0.2)
    before = checker_pids()
    await checkers.check(model, regex("a"))
    (pid,) = checker_pids() - before
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(CheckTooExpensive, match="too long"):
        await checkers.check(model, regex("b"))
    assert pid not in checker_pids()
    checkers.close()


async def test_checks_that_run_end_with_the_checkers(model: str) -> None:
    """No successor is started, and no thread continues, for which Python would wait."""
    checkers = CheckerPool(1, deadline_s=600)
    before = checker_pids()
    await checkers.check(model, regex("a"))
    (pid,) = checker_pids() - before
    os.kill(pid, signal.SIGSTOP)
    threads = list(checkers._threads._threads)
    hanging = [asyncio.create_task(checkers.check(model, regex(one))) for one in "bc"]
    while checkers._threads._work_queue.qsize() != 1:  # until one of them runs
        await settled()
    checkers.close()
    assert not any(thread.is_alive() for thread in threads)
    assert checker_pids() == before
    found = await asyncio.gather(*hanging, return_exceptions=True)
    assert isinstance(found[0], CheckerUnavailable)
    assert isinstance(found[1], asyncio.CancelledError)


async def test_a_checker_that_is_killed_is_replaced(model: str, one_checker: CheckerPool) -> None:
    before = checker_pids()
    await one_checker.check(model, regex("a"))
    (pid,) = checker_pids() - before
    os.kill(pid, signal.SIGKILL)
    assert await one_checker.check(model, regex("b"))
    assert pid not in checker_pids()


def test_a_constraint_that_no_code_has_foreseen_is_an_error_and_the_checker_goes_on(
    model: str,
) -> None:
    checker = Checker()
    checker._tokenizers[model] = load_tokenizer(TextInfo.tokenizer_file(Path(model)), 520, [EOS])
    odd = {"kind": "choice", "definition": "5", "field": "x"}
    answer = checker.answer({"model": model, "constraint": odd})
    assert answer == {"error": "it cannot be read (TypeError)"}


async def test_a_checker_is_bounded_and_gives_way(model: str, one_checker: CheckerPool) -> None:
    before = checker_pids()
    await one_checker.check(model, regex("a"))
    (pid,) = checker_pids() - before
    soft, _ = resource.prlimit(pid, resource.RLIMIT_AS)
    assert 0 < soft < 8 * 1024**3
    assert os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0)


def checker_pids() -> set[int]:
    children = psutil.Process().children()
    return {p.pid for p in children if "headrace.frontend.structured.checker" in p.cmdline()}


async def test_a_model_that_cannot_be_read_is_nobodys_bad_request(
    tmp_path: Path, one_checker: CheckerPool
) -> None:
    with pytest.raises(CheckerUnavailable):
        await one_checker.check(str(tmp_path), regex("a"))


def test_a_checker_whose_frontend_has_been_killed_ends_in_silence(text_path: Path) -> None:
    module = [sys.executable, "-m", "headrace.frontend.structured.checker"]
    checker = subprocess.Popen(
        [*module, "--parent-pid", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert checker.stdout is not None
    checker.stdout.close()
    job = json.dumps({"load": str(text_path)}).encode() + b"\n"
    _, complaint = checker.communicate(job, timeout=60)
    assert (checker.returncode, complaint) == (0, b"")
