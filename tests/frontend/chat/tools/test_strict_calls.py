"""What the model can write where functions are strict, in each format."""

import json
from collections.abc import Collection
from typing import Any

import pytest
from llguidance import LLTokenizer
from tokenizers import AddedToken

from headrace.frontend.chat.tools.available import find_parser
from headrace.frontend.chat.tools.constraint import chat_constraint
from headrace.frontend.chat.tools.parser import CallSyntax, parser_names
from headrace.frontend.chat.tools.tool_use import ToolUse
from headrace.frontend.schemas.chat import ChatCompletionRequest
from headrace.frontend.schemas.tools import FunctionDefinition, Tool
from headrace.frontend.structured.normalise import grammar_text
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.common.grammar_compiler import compile_grammar
from headrace.protocol.text import TextInfo
from tests.frontend.chat.tools.reading import read, schemas
from tests.frontend.text.tokenizers_for_tests import EOS, byte_level

CITY = {"type": "string", "enum": ["Paris", "Rome"]}
PROPERTIES: dict[str, Any] = {
    "city": CITY,
    "days": {"type": "integer"},
    "note": {"type": "string"},
}
PARAMETERS = {
    "type": "object",
    "properties": PROPERTIES,
    "required": ["city", "days"],
    "additionalProperties": False,
}
STRICT = FunctionDefinition(name="weather", parameters=PARAMETERS, strict=True)
FREE = FunctionDefinition(name="time", parameters=None)
TOOLS = schemas(weather=PROPERTIES, time={})
SPECS = [
    name
    for name in parser_names()
    if name not in ("generic", "failing", "waiting", "all", "action")
    and find_parser(name).call_syntax is not None
]


def syntax_of(spec: str, tokens: Collection[str] = ()) -> CallSyntax:
    syntax = find_parser(spec).call_syntax_of(tokens)
    assert syntax is not None
    return syntax


def call(spec: str, tokens: Collection[str] = (), /, **arguments: Any) -> str:
    """A call of the function as its syntax says."""
    syntax = syntax_of(spec, tokens)
    if syntax.parameters is None:
        written = json.dumps(arguments)
    else:
        parameters = syntax.parameters
        written = "".join(
            parameters.begin(key, frozenset({"string" if isinstance(value, str) else "integer"}))
            + (value if isinstance(value, str) else json.dumps(value))
            + parameters.end
            for key, value in arguments.items()
        )
    start = "" if syntax.is_whole_text else syntax.start
    return f"{start}{syntax.begin('weather')}{written}{syntax.end}"


class Grammar:
    """What a grammar allows, over a tokenizer that has some texts as special tokens."""

    def __init__(self, spec: str, *, parallel: bool = True, has_tokens: bool = False) -> None:
        backend = byte_level()
        delimiters = [text for text in find_parser(spec).delimiters if not text.isalpha()]
        delimiters = delimiters if has_tokens else []
        backend.add_tokens([AddedToken(text, special=True) for text in delimiters])
        self.backend = backend
        ids = {text: backend.token_to_id(text) for text in delimiters}
        self._tokenizer = LLTokenizer(backend.to_str(), eos_token=EOS)
        self.ids = ids
        info = TextInfo(max_model_len=64, vocab_size=backend.get_vocab_size(), eos_token_ids=(EOS,))
        functions = [Tool(function=STRICT), Tool(function=FREE)]
        tools = ToolUse("auto", functions, None, find_parser(spec), parallel)
        request = ChatCompletionRequest.model_validate({"messages": [], "tools": functions})
        constraint = chat_constraint(request, tools, ModelTokenizer(info, backend))
        assert constraint is not None
        self._text = grammar_text(constraint)

    def allows(self, text: str) -> bool:
        matcher = compile_grammar(self._tokenizer, self._text)
        tokens = self.backend.encode(text, add_special_tokens=False).ids
        return (
            matcher.validate_tokens(tokens) == len(tokens)
            and matcher.consume_tokens(tokens)
            and matcher.is_accepting()
        )


@pytest.mark.parametrize("has_tokens", [False, True])
@pytest.mark.parametrize("spec", SPECS)
def test_calls_conform_to_their_schemas_and_are_read(spec: str, has_tokens: bool) -> None:
    grammar = Grammar(spec, has_tokens=has_tokens)
    ids = grammar.ids
    good = call(spec, ids, city="Rome", days=3, note="a\n<b> {c}")
    assert grammar.allows(good)
    content, [(name, arguments)] = read(spec, [good], TOOLS)
    assert (content.strip(), name) == ("", "weather")
    assert json.loads(arguments) == {"city": "Rome", "days": 3, "note": "a\n<b> {c}"}
    assert grammar.allows(f"Well. {good}")
    assert grammar.allows("No call, < and { and [1].")
    assert grammar.allows(f"{good}\n{call(spec, ids, city='Paris', days=1)}")
    for bad in (
        call(spec, ids, city="Oslo", days=3),
        call(spec, ids, city="Rome", days="x"),
        call(spec, ids, city="Rome"),
        call(spec, ids, city="Rome", days=3, more=1),
        good.replace("weather", "wether"),
    ):
        assert not grammar.allows(bad), bad
        assert not grammar.allows(f"Well. {bad}"), bad


@pytest.mark.parametrize("spec", SPECS)
def test_one_call_where_no_more_are_wanted(spec: str) -> None:
    good = call(spec, city="Rome", days=3)
    grammar = Grammar(spec, parallel=False)
    assert grammar.allows(good)
    assert grammar.allows(f"Well. {good}")
    assert not grammar.allows(f"{good}\n{good}")


@pytest.mark.parametrize("spec", SPECS)
def test_other_functions_can_be_called_with_anything(spec: str) -> None:
    grammar = Grammar(spec)
    free = call(spec, anything="x", n="1").replace("weather", "time")
    assert grammar.allows(free)


def test_the_words_of_gpt_oss_stay_free() -> None:
    for has_tokens in (False, True):
        grammar = Grammar("openai", has_tokens=has_tokens)
        assert grammar.allows("<|channel|>final<|message|>It rains.")
        assert grammar.allows(
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>So."
        )
        good = call("openai", city="Rome", days=3)
        assert grammar.allows(f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant{good}")
