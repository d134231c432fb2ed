"""What models and clients write is read with work in proportion to its length.

The work is counted, not timed: calls of functions, and the characters that each of them may look
at, which a regular expression or a search may read again and again.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from headrace.frontend.chat.message import MessageReader, PlainReader
from headrace.frontend.chat.reasoning.harmony import HarmonyReader
from headrace.frontend.chat.reasoning.reader import AnswerReader, ReasoningReader
from headrace.frontend.chat.tools.available import find_parser
from headrace.frontend.chat.tools.parser import parser_names
from headrace.frontend.chat.tools.reader import ToolCallReader
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.reasoning import FORMATS
from tests.frontend.chat.test_tool_parsers import WELL_WRITTEN
from tests.frontend.text.tokenizers_for_tests import SPECIAL

LONG = 100_000
PIECE = 20  # characters of a token, or a few
LONG_PIECE = 2000  # what a client that does not read leaves to be joined
UNITS = ["<", "[", "{", "\\", " ", '{"a":"', "[f(a="]
# How each parser's own calls begin: its samples, cut in the middle.
BEGUN = {spec: [text[: len(text) // 2], text[: len(text) // 4]] for spec, text, *_ in WELL_WRITTEN}
SPECS = [name for name in parser_names() if name != "generic"] + [
    spec for spec in BEGUN if spec.startswith("generic:")
]


def counted_calls(work: Callable[[], object]) -> int:
    """How many functions, of Python and of C, are called."""
    calls = 0

    def count(frame: Any, event: str, _: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


def hostile(unit: str, size: int) -> str:
    return (unit * (size // len(unit) + 1))[:size]


def feed(reader: MessageReader, text: str) -> int:
    """Read a text in pieces; return the greatest number of characters that were held back."""
    held, size = 0, PIECE if len(text) < LONG // 2 else LONG_PIECE
    for start in range(0, len(text), size):
        reader.feed(text[start : start + size])
        if isinstance(reader, ToolCallReader):
            held = max(held, len(reader._source._text))
    reader.finish()
    return held


def work_of(make: Callable[[], MessageReader], text: str) -> int:
    return counted_calls(lambda: feed(make(), text))


def assert_linear(make: Callable[[], MessageReader], units: Iterable[str]) -> None:
    for unit in units:
        short, long = (work_of(make, hostile(unit, size)) for size in (1500, 3000))
        assert long < 2.5 * short + 2000, (unit, short, long)  # the first 1,000 may be cheap
    # What is held back is looked at again with each piece.
    held = [feed(make(), hostile(unit, size)) for size in (LONG // 2, LONG)]
    assert held[1] <= 2 * LONG_PIECE or held[1] <= held[0], (unit, held)


@pytest.mark.parametrize("spec", SPECS)
def test_cve_2025_48887_hostile_calls(spec: str) -> None:
    """CVE-2025-48887 (GHSA-w6q7-j642-7c25), GHSA-j828-28rj-hfhp: regular expressions of a tool
    parser take exponential or quadratic time."""
    units = [*UNITS, *BEGUN.get(spec, [])]
    assert_linear(lambda: ToolCallReader(find_parser(spec)), units)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_ghsa_j828_28rj_hfhp_hostile_reasoning(name: str) -> None:
    """GHSA-j828-28rj-hfhp: the same of the parsers of reasoning."""
    found = FORMATS[name]

    def make() -> MessageReader:
        if found.layout == "harmony":
            return HarmonyReader(PlainReader(), include=True)
        marks = found.marks()
        rest: MessageReader = PlainReader()
        if found.answer_start is not None and found.answer_end is not None:
            rest = AnswerReader(rest, found.answer_start, found.answer_end)
        return ReasoningReader(rest, marks=marks, is_open=True, include=True, heading=found.heading)

    beginnings = [found.start[:-1], found.end[:-1]]
    assert_linear(make, ["<", "a", "\n\n ", found.end, found.start, *beginnings])


@pytest.mark.parametrize("unit", [SPECIAL[0], SPECIAL[1][:-1], f"a{SPECIAL[2]} ", "<image>", "  "])
def test_cve_2025_46560_doubled_prompts(text: ModelTokenizer, unit: str) -> None:
    """CVE-2025-46560 (GHSA-vc6m-hm49-g9qg): placeholders in prompts are expanded in quadratic
    time."""

    def work(size: int) -> int:
        prompt = hostile(unit, size)
        return counted_calls(lambda: text._encode_long(prompt, True, f"{unit} {size}"))

    assert work(40_000) < 2.5 * work(20_000) + 1000
