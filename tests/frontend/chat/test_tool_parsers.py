"""Every parser on what models write, well and badly, and on text made to be hard."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.frontend.chat.message import CollectedMessage
from headrace.frontend.chat.tools.available import find_parser
from headrace.frontend.chat.tools.forced import ForcedCallsParser
from headrace.frontend.chat.tools.parser import ToolParser, load_plugin, register_tool_parser
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.python_arguments import PythonArguments
from headrace.frontend.chat.tools.reader import ForcedArgumentsReader, ToolCallReader
from headrace.frontend.chat.tools.source import Incremental, Source

CALLS, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, CALL_END, SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
GENERIC = 'generic:{"start": "<<", "end": ">>", "name": "tool", "arguments": "args"}'


def reader(spec: str) -> ForcedArgumentsReader | ToolCallReader:
    if spec == "forced":
        return ToolCallReader(ForcedCallsParser())
    return (
        ForcedArgumentsReader("f", "id") if spec == "named" else ToolCallReader(find_parser(spec))
    )


def read(
    spec: str, pieces: list[str], reason: str = "stop"
) -> tuple[str, list[tuple[str, str]], str]:
    """Content, calls as (name, arguments), and the finish reason."""
    one, message = reader(spec), CollectedMessage()
    for piece in pieces:
        message.add(one.feed(piece))
    message.add(one.finish())
    calls = [(call.name, call.arguments) for call in message.tool_calls]
    return message.content, calls, one.finish_reason(reason)


def deepseek_v3(name: str, arguments: str) -> str:
    return f"{CALL}function{SEPARATOR}{name}\n```json\n{arguments}\n```{CALL_END}"


TWO = [("f", '{"a": "Paris"}'), ("g", "{}")]
WELL_WRITTEN = [
    (
        "hermes",
        'I look.\n<tool_call>\n{"name": "f", "arguments": {"a": "Paris"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>',
        "I look.",
    ),
    (
        "hermes",
        '<tool_call>[{"arguments": {"a": "Paris"}, "id": 1, "name": "f"}, {"name": "g"}]',
        "",
    ),
    (
        "llama3_json",
        '{"name": "f", "parameters": {"a": "Paris"}}; {"name": "g", "parameters": {}}',
        "",
    ),
    (
        "llama3_json",
        'So: <|python_tag|>{"type": "function", "name": "f", "parameters": {"a": "Paris"}}'
        ';{"name": "g", "parameters": {}}',
        "So:",
    ),
    ("pythonic", ' [f(a="Paris"), g()]\n', ""),
    ("llama4_pythonic", "<|python_start|>[f(a='Paris'), g()]<|python_end|>", ""),
    (
        "mistral",
        '[TOOL_CALLS] [{"name": "f", "arguments": {"a": "Paris"}}, {"name": "g", "arguments": {}}]',
        "",
    ),
    ("mistral", 'Well.[TOOL_CALLS]f{"a": "Paris"}[TOOL_CALLS]g{}', "Well."),
    (
        "mistral",
        '[TOOL_CALLS]f[ARGS]{"a": "Paris"}[TOOL_CALLS]g[CALL_ID]abcdefgh9[ARGS]{}',
        "",
    ),
    (
        "deepseek_v3",
        f"Ah.{CALLS}{deepseek_v3('f', TWO[0][1])}\n{deepseek_v3('g', '{}')}{CALLS_END}",
        "Ah.",
    ),
    (
        "deepseek_v31",
        f"{CALLS}{CALL}f{SEPARATOR}{TWO[0][1]}{CALL_END}{CALL}g{SEPARATOR}{{}}{CALL_END}{CALLS_END}",
        "",
    ),
    (
        GENERIC,
        'x << {"tool": "f", "args": {"a": "Paris"}} >> << {"tool": "g", "args": {}} >>',
        "x",
    ),
    (
        "forced",
        '[{"name": "f", "parameters": {"a": "Paris"}}, {"name": "g", "parameters": {}}]',
        "",
    ),
]


@pytest.mark.parametrize(("spec", "text", "content"), WELL_WRITTEN)
def test_calls_are_read(spec: str, text: str, content: str) -> None:
    assert read(spec, [text]) == (content, TWO, "tool_calls")
    assert read(spec, list(text)) == (content, TWO, "tool_calls")


NO_CALLS = [
    ("hermes", "<tool_call>I would rather not</tool_call>"),
    ("hermes", '<tool_call>{"name": "", "arguments": {}}</tool_call> \n'),
    ("hermes", '<tool_call>{"name": 3, "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"arguments": {"a": 1}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": }</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "argu'),
    ("hermes", "<tool_call>"),
    ("hermes", "<tool_ca"),
    ("hermes", "a < b\n \n"),
    ("llama3_json", '{"name": "John", "age": 3}'),
    ("llama3_json", 'Here: {"name": "f"} [{"a": 1}]'),
    ("llama3_json", "<|python_tag|>brave_search.call(query='x')"),
    ("pythonic", "[1] says otherwise"),
    ("pythonic", "[link](http://x)"),
    ("pythonic", "[f(open('/etc/passwd'))]"),
    ("pythonic", "[f(a=__import__('os').system('true'))]"),
    ("pythonic", "[f(a=1, a=2)]"),
    ("pythonic", "[f(}]"),
    ("pythonic", '[f(a={"k":})]'),
    ("pythonic", "[f(a=[,])]"),
    ("pythonic", "[f(,)]"),
    ("pythonic", "[f(a=lambda: 1)]"),
    ("pythonic", "[f(a=" + "[" * 70 + "]" * 70 + ")]"),
    ("pythonic", "[f(a=" + "9" * 5000 + ")]"),
    ("pythonic", "[f(a=1e999)]"),
    ("pythonic", "[f(a='unfinished"),
    ("mistral", "[TOOL_CALLS] of the wild"),
    ("mistral", "[TOOL_CALLS]f[ARGS]"),
    ("mistral", "[TOOL_CALLS]" + "f" * 300 + "{}"),
    ("deepseek", f"{CALLS}none{CALLS_END}"),
    ("deepseek", f"{CALLS}{CALL}function{SEPARATOR}f\n{{}}{CALL_END}"),
    ("forced", '{"name": "f"'),
    ("forced", "Paris"),
]


@pytest.mark.parametrize(("spec", "text"), NO_CALLS)
def test_what_is_no_call_is_content_to_the_last_character(spec: str, text: str) -> None:
    assert read(spec, [text]) == (text, [], "stop")
    assert read(spec, list(text)) == (text, [], "stop")


def test_json_decides_where_a_call_ends_and_not_what_stands_in_its_strings() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"a": "</tool_call> \\" }"}}</tool_call>'
    assert read("hermes", [text]) == ("", [("f", '{"a": "</tool_call> \\" }"}')], "tool_calls")


def test_what_follows_a_call_is_content() -> None:
    text = '<tool_call>{"name": "f", "arguments": {}} and more</tool_call>\nBye.\n'
    assert read("hermes", [text])[0] == " and more\nBye.\n"


def test_a_text_that_was_cut_short_keeps_the_arguments_so_far() -> None:
    text = 'Hm.\n<tool_call>{"name": "f", "arguments": {"a": "Par'
    assert read("hermes", [text], "length") == ("Hm.", [("f", '{"a": "Par')], "length")
    text = '<tool_call>{"name": "f", "arguments": {}}</tool'
    assert read("hermes", [text], "length") == ("", [("f", "{}")], "length")


def test_arguments_come_as_they_are_written() -> None:
    one = reader("hermes")
    assert one.feed('<tool_call>{"name": "f", "arguments":').tool_calls == ()
    first = one.feed(' {"a":').tool_calls[0]
    assert (first.index, first.name, first.arguments) == (0, "f", '{"a":')
    assert first.call_id is not None
    assert first.call_id.startswith("chatcmpl-tool-")
    assert one.feed(' "Pa').tool_calls == ((0, None, None, ' "Pa'),)
    assert one.feed('ris"}').tool_calls == ((0, None, None, 'ris"}'),)


def test_content_is_held_back_no_longer_than_it_can_be_a_tag() -> None:
    one = reader("hermes")
    assert [one.feed(piece).content for piece in ("a<tool", "bar>", " c ", "d")] == [
        "a",
        "<toolbar>",
        " c",
        " d",
    ]


def test_mistrals_ids() -> None:
    message = CollectedMessage()
    one = reader("mistral")
    message.add(one.feed("[TOOL_CALLS]f[CALL_ID]abcdefgh9[ARGS]{}[TOOL_CALLS]g[CALL_ID]no[ARGS]{}"))
    first, second = (call.call_id for call in message.tool_calls)
    assert first == "abcdefgh9"
    assert len(second) == 9
    assert second.isalnum()


def test_python_literals_become_json() -> None:
    text = (
        r"""[f(a=-1.50, b=[True, None, ()], c={'k': (1, 2), "l": {}}, d='it\'s \x41\n\u00e9\q',"""
        """ e="one" 'two', f=(3), g={'x', 1,}, h={"y"}, ü=.5)]"""
    )
    _, [(name, arguments)], _ = read("pythonic", [text])
    assert name == "f"
    assert json.loads(arguments) == {
        "a": -1.5,
        "b": [True, None, []],
        "c": {"k": [1, 2], "l": {}},
        "d": "it's A\né\\q",
        "e": "onetwo",
        "f": 3,
        "g": ["x", 1],
        "h": ["y"],
        "ü": 0.5,
    }


@pytest.mark.parametrize("unit", ["[],", "1,", '"x",', "(1, 2),"])
def test_python_literals_are_read_while_they_come(
    monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    """So that the end of a long call is no more work than any piece before it."""
    taken = 0
    take = PythonArguments._handle_token

    def counted(self: PythonArguments, kind: str, text: str) -> None:
        nonlocal taken
        taken += 1
        take(self, kind, text)

    monkeypatch.setattr(PythonArguments, "_handle_token", counted)
    reading, most = reader("pythonic"), 0
    for char in f"[f(a=[{unit * 200}])]":
        before, taken = taken, 0
        reading.feed(char)
        most = max(most, taken)
    assert before < most <= 8


def test_half_a_surrogate_pair_can_be_sent() -> None:
    _, [(_, arguments)], _ = read("pythonic", [r"[f(a='\ud800')]"])
    assert arguments == r'{"a": "\ud800"}'


def test_only_the_first_call_where_one_is_wanted() -> None:
    text = WELL_WRITTEN[0][1]
    one, message = ToolCallReader(find_parser("hermes"), only_first=True), CollectedMessage()
    for piece in text:
        message.add(one.feed(piece))
    message.add(one.finish())
    assert [call.name for call in message.tool_calls] == ["f"]
    assert message.tool_calls[0].arguments == TWO[0][1]


def test_a_named_function_is_called_even_with_nothing() -> None:
    assert read("named", []) == ("", [("f", "")], "stop")
    assert read("named", ['{"a"', ": 1}"]) == ("", [("f", '{"a": 1}')], "stop")


def test_a_plugin_that_fails_loses_no_text(caplog: pytest.LogCaptureFixture) -> None:
    @register_tool_parser("failing")
    class Failing(ToolParser):
        def read(self, source: Source, output: ParserOutput) -> Incremental[None]:
            source.start_recording()
            yield from source.accept("ab")
            raise KeyError("x")

    assert read("failing", ["a", "b", "cd", "e"]) == ("abcde", [], "stop")
    assert "a tool parser failed" in caplog.text


def test_a_plugin_that_waits_for_ever_loses_no_text() -> None:
    @register_tool_parser("waiting")
    class Waiting(ToolParser):
        def read(self, source: Source, output: ParserOutput) -> Incremental[None]:
            source.start_recording()
            source.take(1)
            while True:
                yield

    assert read("waiting", ["ab", "c"]) == ("abc", [], "stop")


def test_the_plugin_of_the_docs(tmp_path: Path) -> None:
    docs = (Path(__file__).parents[3] / "docs/tools.md").read_text()
    plugin = tmp_path / "plugin.py"
    plugin.write_text(docs.split("```python\n")[1].split("```")[0])
    load_plugin(plugin)
    assert read("action", ["Well.\nAct", 'ion: {"name": "f"}', " Action: no"]) == (
        "Well. Action: no",
        [("f", "{}")],
        "tool_calls",
    )


SPECS = sorted({spec for spec, *_ in WELL_WRITTEN} | {"named"})
PARTS = [
    *["<tool_call>", "</tool_call>", "<|python_tag|>", "<|python_start|>", "<|python_end|>"],
    *["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", CALLS, CALLS_END, CALL, CALL_END, SEPARATOR],
    *["<<", ">>", "function", "\n```json\n", "\n```", "f", "g(", "a=1", ")", "x='y'", "é"],
    *['{"name": "f", ', '"arguments": ', '"parameters": ', '"tool": "f", ', '"args": ', "{", "}"],
    *["[", "]", ",", ";", '"', "'", "\\", '{"a": [1, "}"]}', "1.5", "null", " ", "\n", "text", ":"],
]
HOSTILE = st.lists(st.sampled_from(PARTS), max_size=30).map("".join)
WELL = st.sampled_from([text for _, text, _ in WELL_WRITTEN])


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A good text with something cut out and something put in."""
    text = draw(WELL)
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(len(text), start + 5)))
    return text[:start] + draw(st.sampled_from(["", *PARTS])) + text[end:]


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_however_a_text_is_cut_it_says_the_same(spec: str, data: st.DataObject) -> None:
    text = data.draw(st.one_of(WELL, damaged(), HOSTILE))
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=20).map(sorted))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = read(spec, [text])
    assert read(spec, pieces) == whole
    assert read(spec, list(text)) == whole
    content, calls, _ = whole
    if not calls:
        assert content == text


HARD = {
    "hermes": ["<tool_call>", '<tool_call>{"x":[', "<", "<tool_cal", " ", '<tool_call>{"name":"'],
    "llama3_json": ['{"x":[', '{"name":"f","parameters":{', "<|python_tag|>{", '{"a":"\\'],
    "pythonic": ["[", "[f(", "[f(a='", "[f(a=[(", "[f(), ", "\\'"],
    "mistral": ["[TOOL_CALLS]", "[TOOL_CALLS]f{", "[TOOL_CALLS][{", "[TOOL_CALLS]f"],
    "deepseek": [CALLS, CALL, f"{CALLS}{CALL}f{SEPARATOR}{{", "<｜tool▁"],
    "forced": ["[", '[{"name":"f","parameters":{}},', '[{"x":"'],
}


@pytest.mark.parametrize(("spec", "unit"), [(s, unit) for s in HARD for unit in HARD[s]])
def test_hard_text_is_read_with_work_in_proportion_to_its_length(spec: str, unit: str) -> None:
    def work(size: int) -> int:
        """Calls of functions for a text that comes by the character."""
        text = (unit * (size // len(unit) + 1))[:size]
        one, counted = reader(spec), 0

        def count(*_: Any) -> None:
            nonlocal counted
            counted += 1

        sys.setprofile(count)
        try:
            for char in text:
                one.feed(char)
                assert isinstance(one, ToolCallReader)
                # What each of the calls looks at is short.
                assert len(one._source._text) < 64
            one.finish()
        finally:
            sys.setprofile(None)
        return counted

    assert work(4000) < 5 * work(1000)
