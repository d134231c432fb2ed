"""Schemas, regular expressions and tools that cannot be compiled harm nobody."""

import asyncio
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.structured import grammar_cache
from headrace.frontend.structured.checker_pool import CheckerPool
from headrace.frontend.structured.constraint import Constraint
from headrace.frontend.structured.grammar_cache import GrammarCache
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.stand_ins.sitecustomize import ALLOCATES, DIES, SLEEPS, python_path

CHAT = "/v1/chat/completions"
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}


def schema(value: Any) -> dict[str, Any]:
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}
    }


def tool(parameters: Any) -> dict[str, Any]:
    function = {"name": "f", "strict": True, "parameters": parameters}
    return {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}


def structured(**fields: Any) -> dict[str, Any]:
    return {"structured_outputs": fields}


BAD: list[tuple[str, dict[str, Any]]] = [
    ("CVE-2025-48942", schema({"type": "nonsense"})),
    ("CVE-2025-48942", schema({"type": ["object", 5]})),
    ("CVE-2025-48942", schema({"properties": []})),
    ("CVE-2025-48942", structured(json='{"type": "stsring"}')),
    ("CVE-2025-48942", structured(json="{")),
    ("CVE-2025-48942", structured(grammar="start: (")),
    ("CVE-2025-48943", structured(regex="[")),
    ("CVE-2025-48943", structured(regex="(?<name")),
    ("CVE-2025-48943", structured(regex="a{5,1}")),
    ("CVE-2025-48943", structured(regex=r"(?=a)\1")),
    ("CVE-2025-48943", schema({"type": "string", "pattern": "["})),
    ("CVE-2025-48944", tool({"type": "object", "properties": {"a": {"type": "nonsense"}}})),
    ("CVE-2025-48944", tool({"type": 5})),
]


@pytest.mark.parametrize(("advisory", "fields"), BAD)
async def test_cve_2025_48942_48943_48944_what_cannot_be_compiled(
    client: Client, pool: FakePool, advisory: str, fields: dict[str, Any]
) -> None:
    """CVE-2025-48942, CVE-2025-48943, CVE-2025-48944: a bad schema, regular expression or pattern
    of a tool ends the server. (On real workers: test_live_server.py.)"""
    response = await client.post(CHAT, json={**ASKED, **fields})
    body = await response.get_json()
    assert response.status_code == 400, (advisory, body)
    assert body["error"]["type"] in ("BadRequestError", "Bad Request")
    assert not pool.requests
    response = await client.post(CHAT, json={**ASKED, **structured(regex="[ab]")})
    assert response.status_code == 200


@pytest.fixture
def checkers(monkeypatch: pytest.MonkeyPatch) -> Iterator[CheckerPool]:
    """Checkers in which texts do what they say (tests/stand_ins), with a short deadline."""
    monkeypatch.setenv("PYTHONPATH", python_path())
    pool = CheckerPool(deadline_s=2.0)
    yield pool
    pool.close()


def children_of_ours() -> set[int]:
    ours = psutil.Process().children(recursive=True)
    return {each.pid for each in ours if "structured.checker" in " ".join(each.cmdline())}


@pytest.mark.parametrize("stand_in", [SLEEPS, ALLOCATES, DIES])
async def test_ghsa_rwxx_mrjm_wc2m_compiling_takes_too_long(
    make_app: MAKE_APP, checkers: CheckerPool, stand_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GHSA-rwxx-mrjm-wc2m: compiling a regular expression takes all time. A stand-in takes it here,
    or memory; the process that compiles is gone afterwards, and others are answered meanwhile."""
    from tests.frontend import conftest

    monkeypatch.setattr(conftest, "new_grammars", lambda: GrammarCache(checkers))
    before = children_of_ours()
    client = make_app().test_client()
    warm = await client.post(CHAT, json={**ASKED, **structured(regex="[ab]")})
    assert warm.status_code == 200
    (checker,) = children_of_ours() - before
    hostile = asyncio.ensure_future(
        client.post(CHAT, json={**ASKED, **structured(choice=[stand_in])})
    )
    answered = 0
    while not hostile.done():
        assert (await client.get("/livez")).status_code == 200
        answered += 1
        await asyncio.sleep(0.05)
    assert answered > 1 or stand_in != SLEEPS
    assert (await hostile).status_code == 400
    if stand_in != ALLOCATES:  # which fails alone
        assert checker not in children_of_ours()
    assert (await client.post(CHAT, json={**ASKED, **structured(regex="[cd]")})).status_code == 200


class Verbose(CheckerPool):
    """Answers each constraint with a long grammar, without compiling anything."""

    def __init__(self, chars: int) -> None:
        self._chars = chars

    async def check(self, model: str, constraint: Constraint) -> str:
        return constraint.definition.ljust(self._chars, "x")


@pytest.mark.parametrize("chars", [10, 100_000])
async def test_cve_2025_29770_ten_thousand_schemas(chars: int) -> None:
    """CVE-2025-29770 (GHSA-mgrm-fgjv-mhv8): the cache of grammars grows without end, on a disk.
    Ours is in memory, and bounded by number and by size."""
    cache = GrammarCache(Verbose(chars))
    for number in range(10_000 if chars == 10 else 500):
        constraint = Constraint("json_schema", f'{{"const":{number}}}', "response_format")
        await cache.compile("model", constraint)
    assert 0 < len(cache._cache) <= grammar_cache.MAX_CACHED_GRAMMARS
    held = sum(map(grammar_cache._size, cache._cache.values()))
    assert held == cache._cached_chars <= grammar_cache.MAX_CACHED_CHARS
    assert not cache._checks
