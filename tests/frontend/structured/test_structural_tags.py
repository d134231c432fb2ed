"""Which texts structural tags allow."""

import json
from typing import Any

import pytest
from llguidance import LLTokenizer

from headrace.frontend.structured.constraint import Constraint
from headrace.frontend.structured.normalise import grammar_text
from headrace.protocol.common.grammar_compiler import compile_grammar
from tests.frontend.text.tokenizers_for_tests import EOS, byte_level

AGE = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
JSON = {"type": "json_schema", "json_schema": AGE}
OLD = {
    "structures": [
        {"begin": "<f=a>", "schema": AGE, "end": "</f>"},
        {"begin": "<f=b>", "schema": {"type": "integer"}, "end": "</f>"},
    ],
    "triggers": ["<f="],
}
SEQUENCE = {
    "type": "sequence",
    "elements": [
        {"type": "tag", "begin": "<think>", "content": {"type": "any_text"}, "end": "</think>"},
        {"type": "or", "elements": [{"type": "const_string", "value": "no"}, JSON]},
    ],
}
TRIGGERED = {
    "type": "triggered_tags",
    "triggers": ["<f="],
    "tags": [{"type": "tag", "begin": "<f=a>", "content": JSON, "end": "</f>"}],
}
REGEX = {"type": "regex", "pattern": "[a-c]/[0-9]+"}


@pytest.fixture(scope="module")
def tokenizer() -> LLTokenizer:
    return LLTokenizer(byte_level().to_str(), eos_token=EOS)


def allows(tokenizer: LLTokenizer, definition: Any, text: str) -> bool:
    """Whether a text may be exactly this."""
    constraint = Constraint("structural_tag", json.dumps(definition), "x")
    matcher = compile_grammar(tokenizer, grammar_text(constraint))
    tokens = tokenizer.tokenize_str(text)
    return matcher.validate_tokens(tokens) == len(tokens) and (
        matcher.consume_tokens(tokens) and matcher.is_accepting()
    )


@pytest.mark.parametrize(
    ("definition", "text", "expected"),
    [
        (OLD, "no call at all", True),
        (OLD, 'first <f=a>{"age": 3}</f> then <f=b>4</f> end', True),
        (OLD, 'first <f=a>{"age": "x"}</f>', False),
        (OLD, "first <f=c>3</f>", False),
        ({"format": SEQUENCE}, "<think>well < then\n</think>no", True),
        ({"format": SEQUENCE}, '<think></think>{"age": 3}', True),
        ({"format": SEQUENCE}, "<think>well</think>yes", False),
        ({"format": SEQUENCE}, "no", False),
        ({"format": TRIGGERED}, 'so <f=a>{"age": 3}</f> and <f=a>{"age": 4}</f>', True),
        ({"format": TRIGGERED}, "nothing", True),
        ({"format": TRIGGERED}, "so <f=b>", False),
        ({"format": {**TRIGGERED, "at_least_one": True}}, "nothing", False),
        ({"format": {**TRIGGERED, "stop_after_first": True}}, 'so <f=a>{"age": 3}</f>', True),
        ({"format": {**TRIGGERED, "stop_after_first": True}}, 'so <f=a>{"age": 3}</f> and', False),
        ({"format": REGEX}, "b/12", True),
        ({"format": REGEX}, "d/12", False),
    ],
)
def test_texts(tokenizer: LLTokenizer, definition: Any, text: str, expected: bool) -> None:
    assert allows(tokenizer, definition, text) is expected


@pytest.mark.parametrize(
    "definition",
    [
        3,
        {},
        {"structures": OLD["structures"], "triggers": ["<g="]},
        {"structures": [{"begin": 1, "end": ""}], "triggers": ["<f="]},
        {"structures": 5, "triggers": ["<f="]},
        {"structures": OLD["structures"], "triggers": 5},
        {"structures": OLD["structures"], "triggers": "<f="},
        {"format": {"type": "unknown"}},
        {"format": {"type": "sequence"}},
        {"format": {"type": "sequence", "elements": [3]}},
        {"format": {"type": "triggered_tags", "triggers": [""], "tags": []}},
        {"format": {"type": "tag", "begin": "a"}},
    ],
)
def test_what_is_no_structural_tag_is_refused(definition: Any) -> None:
    with pytest.raises(ValueError, match=r"\w+"):
        grammar_text(Constraint("structural_tag", json.dumps(definition), "x"))
