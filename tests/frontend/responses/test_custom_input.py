"""The free-form input of a tool, from the arguments of a function."""

import itertools
import json
import random

import pytest

from headrace.frontend.responses.request.custom_input import InputDecoder, encode_input

# Plain and escaped characters, two that are a pair, half a pair, quotes and a raw newline.
ALPHABET = [
    "a",
    "é",
    "\U0001f600",
    '"',
    "\\",
    "\n",
    "\t",
    "/",
    "u",
    "\x01",
]


def decoded(arguments: str, cuts: list[int]) -> str:
    decoder = InputDecoder()
    edges = [0, *sorted(cuts), len(arguments)]
    pieces = [arguments[start:end] for start, end in itertools.pairwise(edges)]
    return "".join(map(decoder.feed, pieces)) + decoder.finish()


@pytest.mark.parametrize("is_ascii", [True, False])
def test_any_text_comes_back_however_it_is_cut(is_ascii: bool) -> None:
    draw = random.Random(7)
    for length in range(40):
        text = "".join(draw.choices(ALPHABET, k=length))
        arguments = json.dumps({"input": text}, ensure_ascii=is_ascii)
        assert json.loads(encode_input(text)) == {"input": text}
        for _ in range(8):
            cuts = [draw.randrange(len(arguments) + 1) for _ in range(draw.randrange(9))]
            assert decoded(arguments, cuts) == text
        assert decoded(arguments, list(range(len(arguments)))) == text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input": "cut of', "cut of"),
        ('{"input": "cut \\u00', "cut "),
        ('{"input": "one\ntwo"}', "one\ntwo"),
        ('{"input": "half \\ud83d pair"}', "half \ufffd pair"),
        ('{"input": "an odd \\q"}', "an odd q"),
        ('{"input": "no escape \\UD83D\\UDE00 of JSON"}', "no escape UD83DUDE00 of JSON"),
        ('{"input": "half \\ud83d\\UDE00 a pair"}', "half \ufffdUDE00 a pair"),
        ('{"input": "first", "input": "second"}', "first"),
        ('{"patch": "of one other name"}', "of one other name"),
        ('{"a": 1, "input": "not the first"}', "not the first"),
        ("{" + " " * 100 + '"input": "far away"}', "far away"),
        ('"a string alone"', "a string alone"),
        ("plain text", "plain text"),
        ('{"input": 3}', '{"input": 3}'),
        ("[1]", "[1]"),
        ("", ""),
    ],
)
def test_what_models_write_is_read_as_well_as_it_can_be(arguments: str, text: str) -> None:
    assert decoded(arguments, []) == text
    assert decoded(arguments, list(range(len(arguments)))) == text
