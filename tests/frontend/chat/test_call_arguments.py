"""Arguments of earlier calls: whatever a model wrote, templates get an object."""

import json
import logging
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from quart.typing import TestClientProtocol as Client

from headrace.frontend.chat import call_arguments as module
from headrace.frontend.chat.call_arguments import call_arguments
from headrace.frontend.chat.tolerant_json import MAX_DEPTH
from headrace.frontend.limited_log import LimitedLog
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}:{% for call in message.tool_calls or [] %}"
    "{{ call.function.name }}"
    "{% for key, value in call.function.arguments.items() %}[{{ key }}={{ value }}]{% endfor %}"
    "{{ call.function.arguments | tojson }}{% endfor %}{{ message.content }}\n{% endfor %}"
)

REPAIRED: list[tuple[str | None, dict[str, Any]]] = [
    # cut short
    ('{"city": "Os', {"city": "Os"}),
    ('{"city": "Oslo", "da', {"city": "Oslo"}),
    ('{"city": "Oslo", "day":', {"city": "Oslo"}),
    ('{"a": {"b": [1, {"c": "d', {"a": {"b": [1, {"c": "d"}]}}),
    ('{"a": tr', {"a": True}),
    ('{"a": 12.', {"a": 12}),
    ('{"a": -', {}),
    ('{"a": "x\\', {"a": "x"}),
    ('{"a": "x\\u00e', {"a": "x"}),
    ("{", {}),
    # raw control characters
    ('{"a":"x\ny\tz\x01"}', {"a": "x\ny\tz\x01"}),
    ('{"a":"x\ny', {"a": "x\ny"}),
    # Python's syntax, and other slips
    ('{"a": True, "b": None, "c": False}', {"a": True, "b": None, "c": False}),
    ("{'a': 'it\\'s', 'b': (1, 2)}", {"a": "it's", "b": [1, 2]}),
    ("{'a': \"it's\"}", {"a": "it's"}),
    ('{"a": 1, "b": [1, 2,],}', {"a": 1, "b": [1, 2]}),
    ('{"a": "x"\n"b": 2}', {"a": "x", "b": 2}),
    ("{a: 1, b: New York}", {"a": 1, "b": "New York"}),
    ('{"a": "he said "hi" there", "b": 1}', {"a": 'he said "hi" there', "b": 1}),
    ('{"p": "C:\\dir"}', {"p": "C:\\dir"}),
    ('{"a": 1}}', {"a": 1}),
    ('{"a": 1} and more', {"a": 1}),
    ('```json\n{"a": 1}\n```', {"a": 1}),
    ('\ufeff{"a": 1}', {"a": 1}),
    ('{"n": ' + "1" * 5000 + ', "b": 2}', {"b": 2}),
    # an object in a text
    ('"{\\"a\\": 1}"', {"a": 1}),
    # tokenizers take no halves of characters
    ('{"a\\ud800": ["\\ud83d\\ude00", {"b": "\\udc00!"}]}', {"a\ufffd": ["😀", {"b": "\ufffd!"}]}),
    ('{"a": "\\ud800', {"a": "\ufffd"}),
    # nothing
    (None, {}),
    ("", {}),
    (" \n", {}),
    ("null", {}),
]
NO_OBJECTS = ["[1]", '[{"a": 1}]', '"text"', "text", "5", "true", '""""', "[" * 100_000, "@"]
NO_OBJECTS += ['{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), '{"a":[' * 100_000]


@pytest.mark.parametrize(("written", "expected"), REPAIRED)
def test_what_can_be_read_is_read(written: str | None, expected: dict[str, Any]) -> None:
    assert call_arguments(written) == expected


@pytest.mark.parametrize("written", NO_OBJECTS, ids=lambda written: written[:20])
def test_anything_else_is_empty_and_the_log_says_so(
    written: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_log", LimitedLog(logging.getLogger("headrace.frontend.chat")))
    assert call_arguments(written) == {}
    assert call_arguments(written) == {}
    assert len(caplog.records) == 1
    assert "arguments" in caplog.records[0].getMessage()
    assert len(caplog.records[0].getMessage()) < 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON), st.booleans())
def test_what_is_well_written_is_unchanged(value: dict[str, Any], ascii_only: bool) -> None:
    assert call_arguments(json.dumps(value, ensure_ascii=ascii_only)) == value


@given(st.dictionaries(st.text(), JSON, min_size=1), st.data())
def test_every_beginning_is_an_object_of_what_it_shows(
    value: dict[str, Any], data: st.DataObject
) -> None:
    written = json.dumps(value, ensure_ascii=False)
    cut = written[: data.draw(st.integers(1, len(written) - 1))]
    found = call_arguments(cut)
    # All members are whole, in order, but the last, which may be cut.
    for key, member in list(found.items())[:-1]:
        assert value[key] == member
    assert list(found) == list(value)[: len(found)]


@given(st.text(st.sampled_from("{}[]()\"'\\,: \n\tabu0-1.eTFN\ud800é")))
@example('{"a":"\\u')
def test_any_text_gives_an_object_that_can_be_written(written: str) -> None:
    found = call_arguments(written)
    assert isinstance(found, dict)
    if "\ud800" not in written:  # servers reject such bodies
        json.dumps(found, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "written",
    ['{"city": "Os', '{"a":"x\ny"}', '{"a": True}', "[1]", '"text"', "", '{"a": "\\ud800"}', None],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/tokenize"])
async def test_no_chat_is_lost(
    make_app: MAKE_APP, text: ModelTokenizer, pool: FakePool, written: str | None, path: str
) -> None:
    info = text.info.model_copy(update={"chat_template": TEMPLATE})
    client: Client = make_app(type(text)(info, text.backend)).test_client()
    body: dict[str, Any] = {"messages": chat(written)}
    if path == "/v1/responses":
        body = {"input": items(written or ""), "store": False}
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, await answer.get_data(as_text=True)
    if path == "/tokenize":
        ids = (await answer.get_json())["tokens"]
    else:
        ids = pool.requests[-1].prompt_token_ids
    shown = text.backend.decode(ids, skip_special_tokens=False)
    expected = call_arguments(written)
    members = "".join(f"[{key}={value}]" for key, value in expected.items())
    assert f"f{members}{json.dumps(expected, ensure_ascii=False)}" in shown


def chat(written: str | None) -> list[dict[str, Any]]:
    function = {"name": "f", **({} if written is None else {"arguments": written})}
    call = {"id": "c1", "type": "function", "function": function}
    return [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]


def items(written: str) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "Weather?"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": written},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
    ]


def test_a_log_that_is_limited_names_each_kind_once_in_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = [0.0]
    log = LimitedLog(logging.getLogger("headrace.frontend.chat"), lambda: now_s[0])
    for _ in range(3):
        log.warning("one")
        log.warning("two")
    now_s[0] = 61.0
    log.warning("one")
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["one", "two", "one (and 2 times since the last such line)"]
    for number in range(1000):
        log.warning(f"kind {number}")
    assert len(caplog.records) < 300
