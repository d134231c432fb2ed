"""The cache of compiled grammars: what is compiled once, remembered, and checked in which order."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from headrace.frontend.errors import BadRequest, TooManyRequests
from headrace.frontend.structured import grammar_cache as grammars_module
from headrace.frontend.structured.checker_pool import (
    CheckerPool,
    CheckFailed,
    CheckTooExpensive,
)
from headrace.frontend.structured.constraint import (
    Constraint,
)
from headrace.frontend.structured.grammar_cache import GrammarCache
from headrace.protocol.grammar import Grammar
from tests.frontend.asgi import post
from tests.frontend.conftest import MAKE_APP
from tests.frontend.structured.shared_checkers import settled

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT = {"model": "smol", "messages": [{"role": "user", "content": "Paris?"}], "max_tokens": 9}


def regex(pattern: str) -> Constraint:
    return Constraint("regex", pattern, "structured_outputs.regex")


class CountingCheckers(CheckerPool):
    """Compiles nothing, slowly."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def check(self, model: str, constraint: Constraint) -> str:
        self.asked.append(constraint.definition)
        await asyncio.sleep(0.01)
        if constraint.definition == "late":
            raise CheckTooExpensive("late")
        if constraint.definition == "bad":
            raise CheckFailed("bad")
        return constraint.definition * 10


async def test_equal_constraints_are_compiled_once() -> None:
    counting = CountingCheckers()
    compiler = GrammarCache(counting)
    first = asyncio.create_task(compiler.compile("m", regex("a")))
    found = asyncio.gather(*(compiler.compile("m", regex("a"), (str(n),)) for n in range(9)))
    await asyncio.sleep(0)
    first.cancel()  # the first request has been aborted
    assert [grammar.after for grammar in await found] == [(str(n),) for n in range(9)]
    await compiler.compile("m", replace(regex("a"), field="other"))
    assert counting.asked == ["a"]
    await compiler.compile("other model", regex("a"))
    assert counting.asked == ["a", "a"]


async def test_refusals_are_remembered_but_shortly_if_the_machine_may_be_at_fault() -> None:
    counting, now = CountingCheckers(), [0.0]
    compiler = GrammarCache(counting, clock=lambda: now[0])
    for at_s, definition in ((0, "bad"), (1, "late"), (60, "late"), (62, "late"), (63, "bad")):
        now[0] = at_s
        with pytest.raises(BadRequest, match=f"structured_outputs.regex: {definition}"):
            await compiler.compile("m", regex(definition))
    assert counting.asked == ["bad", "late", "late"]


async def test_what_is_too_expensive_is_remembered_in_bounded_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grammars_module, "MAX_CACHED_TOO_EXPENSIVE", 2)
    counting = CountingCheckers()
    compiler = GrammarCache(counting)
    for model in ("a", "b", "c", "b", "a"):
        with pytest.raises(BadRequest):
            await compiler.compile(model, regex("late"))
    assert len(counting.asked) == 4  # of the first, twice


class HeldCheckers(CountingCheckers):
    """Ends no check before `release`."""

    def __init__(self) -> None:
        super().__init__()
        self.release = asyncio.Event()

    async def check(self, model: str, constraint: Constraint) -> str:
        self.asked.append(constraint.definition)
        await self.release.wait()
        return constraint.definition


def asking(compiler: GrammarCache, *definitions: str) -> list[asyncio.Task[Grammar]]:
    return [asyncio.create_task(compiler.compile("m", regex(one))) for one in definitions]


async def test_the_newest_is_checked_next() -> None:
    held = HeldCheckers()
    compiler = GrammarCache(held)
    tasks = asking(compiler, "1", "2", "3", "4", "5")
    await settled()
    assert held.asked == ["1", "2"]
    held.release.set()
    await asyncio.gather(*tasks)
    assert held.asked == ["1", "2", "5", "4", "3"]


async def test_what_nobody_waits_for_any_more_is_not_checked() -> None:
    held = HeldCheckers()
    compiler = GrammarCache(held)
    tasks = asking(compiler, "1", "2", "gone", "wanted", "wanted", "asked again")
    await settled()
    for task in (tasks[0], tasks[2], tasks[3], tasks[5]):
        task.cancel()
    await settled()
    again = asking(compiler, "asked again")
    held.release.set()
    await asyncio.gather(tasks[1], tasks[4], *again)
    assert sorted(held.asked) == ["1", "2", "asked again", "wanted"]
    await compiler.compile("m", regex("1"))  # begun, so it was brought to its end
    assert held.asked.count("1") == 1
    assert not compiler._checks


async def test_a_wait_for_a_check_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammars_module, "MAX_WAIT_S", 0.01)
    held = HeldCheckers()
    compiler = GrammarCache(held)
    first = asking(compiler, "1", "2")
    await settled()
    with pytest.raises(TooManyRequests, match=r"structured_outputs\.regex: too many") as caught:
        await compiler.compile("m", regex("late"))
    assert int(caught.value.headers["Retry-After"]) >= 1
    held.release.set()
    await asyncio.gather(*first)
    assert held.asked == ["1", "2"]
    assert (await compiler.compile("m", regex("late"))).text == "late"


async def test_of_too_many_the_oldest_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammars_module, "MAX_WAITING", 2)
    held = HeldCheckers()
    compiler = GrammarCache(held)
    tasks = asking(compiler, "1", "2", "3", "4", "5")
    with pytest.raises(TooManyRequests):
        await tasks[2]
    held.release.set()
    await asyncio.gather(*tasks[:2], *tasks[3:])
    assert "3" not in held.asked


async def test_clients_take_turns_at_checks() -> None:
    """However many others send, and however new theirs are."""
    held = HeldCheckers()
    compiler = GrammarCache(held)

    def asked_by(client: str, *definitions: str) -> list[asyncio.Task[Grammar]]:
        return [
            asyncio.create_task(compiler.compile("m", regex(one), client=client))
            for one in definitions
        ]

    tasks = asked_by("a", "a1", "a2", "a3", "a4") + asked_by("b", "b1", "b2") + asked_by("a", "a5")
    await settled()
    held.release.set()
    await asyncio.gather(*tasks)
    assert held.asked == ["a1", "a2", "a5", "b2", "a4", "b1", "a3"]


async def test_the_client_is_the_address_that_a_request_comes_from(
    make_app: MAKE_APP, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients: list[str] = []
    compiled = GrammarCache.compile

    async def noted(self: GrammarCache, *given: Any) -> Grammar:
        clients.append(given[-1])
        return await compiled(self, *given)

    monkeypatch.setattr(GrammarCache, "compile", noted)
    body = {**CHAT, "structured_outputs": {"choice": ["a", "b"]}}
    exchange = post(make_app(), "/v1/chat/completions", body)
    await exchange.finish()
    assert exchange.status == 200
    assert clients == ["127.0.0.1"]


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammars_module, "MAX_CACHED_GRAMMARS", 20)
    monkeypatch.setattr(grammars_module, "MAX_CACHED_CHARS", 1000)
    compiler = GrammarCache(CountingCheckers())
    for start in range(0, 100, 10):
        await asyncio.gather(
            *(compiler.compile("m", regex(f"{n}")) for n in range(start, start + 10))
        )
    assert len(compiler._cache) == 20
    await compiler.compile("m", regex("x" * 90))
    kept = [grammar for grammar in compiler._cache.values() if isinstance(grammar, Grammar)]
    assert len(kept) == len(compiler._cache)
    assert compiler._cached_chars == sum(len(grammar.text) for grammar in kept)
    assert compiler._cached_chars <= 1000
