"""Values that stand in the output as text get the types of the request's schemas."""

import json
from typing import Any

import pytest

from headrace.frontend.chat.tools.available import find_parser
from headrace.frontend.chat.tools.reader import ToolCallReader
from headrace.frontend.chat.tools.tool_schemas import NO_SCHEMAS, ToolSchemas, json_value
from tests.frontend.chat.tools.reading import read_both

SCHEMA = {
    "type": "object",
    "properties": {
        "string": {"type": "string"},
        "integer": {"type": "integer"},
        "number": {"type": "number"},
        "boolean": {"type": "boolean"},
        "array": {"type": "array", "items": {"type": "integer"}},
        "object": {"type": "object"},
        "null": {"type": "null"},
        "optional": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "either": {"oneOf": [{"type": "integer"}, {"type": "array"}]},
        "listed": {"type": ["integer", "null"]},
        "enum": {"enum": [1, 2, None]},
        "words": {"enum": ["1", "2"]},
        "const": {"const": True},
        "referred": {"$ref": "#/$defs/Count"},
        "around": {"$ref": "#/$defs/Around"},
        "python": {"type": "int"},
        "any": {},
    },
    "$defs": {"Count": {"type": "integer"}, "Around": {"anyOf": [{"$ref": "#/$defs/Around"}]}},
}
TOOLS = ToolSchemas(
    {"f": SCHEMA, "open": {"additionalProperties": {"type": "integer"}}, "none": None}
)
VALUES: list[tuple[str, str, Any]] = [
    ("string", "5", "5"),
    ("string", "true", "true"),
    ("string", '{"a": 1}', '{"a": 1}'),
    ("string", ' a "b" \\ <c> & \t\u2028é ', ' a "b" \\ <c> & \t\u2028é '),
    ("string", "", ""),
    ("integer", "5", 5),
    ("integer", " -5 ", -5),
    ("integer", "5.0", 5),
    ("integer", "5.5", 5.5),
    ("integer", "five", "five"),
    ("integer", "[1]", [1]),
    ("number", "5", 5),
    ("number", "-0.5e3", -500),
    ("number", "2.25", 2.25),
    ("number", "nan", "nan"),
    ("number", "1e999", "1e999"),
    ("number", "9" * 5000, "9" * 5000),
    ("boolean", "true", True),
    ("boolean", "False", False),
    ("boolean", "1", True),
    ("boolean", "perhaps", "perhaps"),
    ("array", "[1, 2]", [1, 2]),
    ("array", "[1, 2", [1, 2]),
    ("array", "['a', True, None]", ["a", True, None]),
    ("array", "one", "one"),
    ("object", '{"a": {"b": [1, "x\n"]}}', {"a": {"b": [1, "x\n"]}}),
    ("object", "{'a': 1,}", {"a": 1}),
    ("object", "[1]", [1]),
    ("null", "null", None),
    ("null", "x", "x"),
    ("optional", "null", None),
    ("optional", "5", "5"),
    ("either", "5", 5),
    ("either", "[5]", [5]),
    ("listed", "null", None),
    ("listed", "7", 7),
    ("enum", "2", 2),
    ("enum", "null", None),
    ("words", "1", "1"),
    ("const", "true", True),
    ("referred", "3", 3),
    ("around", "3", "3"),
    ("python", "3", 3),
    ("any", "3", "3"),
    ("unknown", "3", "3"),
]


def qwen(key: str, value: str) -> str:
    return (
        f"<tool_call>\n<function=f>\n<parameter={key}>\n{value}\n</parameter>\n"
        "</function>\n</tool_call>"
    )


def glm(key: str, value: str) -> str:
    return f"<tool_call>f\n<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n</tool_call>"


def minimax(key: str, value: str) -> str:
    return (
        f'<minimax:tool_call><invoke name="f"><parameter name="{key}">{value}</parameter></invoke>'
        "</minimax:tool_call>"
    )


@pytest.mark.parametrize(("key", "written", "value"), VALUES)
@pytest.mark.parametrize(
    ("spec", "write"),
    [("qwen3_coder", qwen), ("glm45", glm), ("minimax_m2", minimax)],
    ids=["qwen", "glm", "minimax"],
)
def test_values_have_the_types_of_the_schema(
    spec: str, write: Any, key: str, written: str, value: Any
) -> None:
    content, [(name, arguments)] = read_both(spec, write(key, written), TOOLS)
    assert (content, name) == ("", "f")
    read = json.loads(arguments)
    assert read == {key: value}
    assert type(read[key]) is type(value)


def test_where_nothing_is_known_values_are_text() -> None:
    for tools in (NO_SCHEMAS, ToolSchemas({"f": None}), ToolSchemas({"f": {"properties": 3}})):
        _, [(_, arguments)] = read_both("qwen3_coder", qwen("a", "5"), tools)
        assert json.loads(arguments) == {"a": "5"}
    text = qwen("a", "5").replace("=f", "=open")
    _, [(_, arguments)] = read_both("qwen3_coder", text, TOOLS)
    assert json.loads(arguments) == {"a": 5}


def test_one_newline_on_each_side_belongs_to_the_format_where_it_has_them() -> None:
    for value in ("\nx\n", "x\n\ny", "\n", "\n\n"):
        _, [(_, arguments)] = read_both("qwen3_coder", qwen("string", value), TOOLS)
        assert json.loads(arguments) == {"string": value}
        _, [(_, arguments)] = read_both("mimo", qwen("string", value), TOOLS)
        assert json.loads(arguments) == {"string": f"\n{value}\n"}
        _, [(_, arguments)] = read_both("minimax_m2", minimax("string", value), TOOLS)
        assert json.loads(arguments) == {"string": value}


def test_strings_come_while_they_are_written_and_other_values_when_they_are_known() -> None:
    reader = ToolCallReader(find_parser("qwen3_coder"), tools=TOOLS)
    reader.feed("<tool_call>\n<function=f>\n<parameter=string>\n")
    assert reader.feed("first li").tool_calls[0].arguments == "first li"
    assert reader.feed('ne\n"second"\n').tool_calls[0].arguments == 'ne\\n\\"second\\"'
    assert reader.feed("</parameter>\n<parameter=integer>\n1").tool_calls[0].arguments == '"'
    assert reader.feed("2\n</parameter>").tool_calls[0].arguments == ', "integer": 12'
    assert reader.feed("\n</function>").tool_calls[0].arguments == "}"


def test_the_schema_comes_before_what_the_markup_says_of_types() -> None:
    tag = "｜DSML｜"

    def dsml(flag: str, value: str) -> str:
        return (
            f'<{tag}function_calls><{tag}invoke name="f"><{tag}parameter name="integer"{flag}>'
            f"{value}</{tag}parameter></{tag}invoke></{tag}function_calls>"
        )

    cases = [
        (' string="true"', "5", "integer", 5),
        (' string="false"', "5", "integer", 5),
        ("", "5", "integer", 5),
        (' string="false"', "null", "string", "null"),
        (' string="true"', "5", "mixed", "5"),
        (' string="false"', "5", "mixed", 5),
        (' string="true"', "5", "unknown", "5"),
        (' string="false"', '["x"]', "unknown", ["x"]),
        ("", "5", "unknown", "5"),
    ]
    mixed = {**SCHEMA["properties"], "mixed": {"type": ["string", "integer"]}}  # type: ignore[dict-item]
    tools = ToolSchemas({"f": {"properties": mixed}})
    for flag, written, key, value in cases:
        text = dsml(flag, written).replace("integer", key)
        _, [(_, arguments)] = read_both("deepseek_v32", text, tools)
        assert json.loads(arguments) == {key: value}


def test_values_in_cdata_end_with_it() -> None:
    text = '<function name="f"><param name="string"><![CDATA[a </param>\n]]></param></function>'
    _, [(_, arguments)] = read_both("minicpm5", text, TOOLS)
    assert json.loads(arguments) == {"string": "a </param>\n"}


def test_gemmas_values() -> None:
    quote = '<|"|>'
    text = (
        f"<|tool_call>call:f{{string:{quote}a{{b}}:,[<c>{quote},number:-1.5,boolean:true,null:null,"
        f"array:[{quote}x{quote},1,[true]],object:{{k:{quote}v{quote},n:{{m:2}}}},"
        f"integer:{quote}7{quote},words:1,unknown:3}}<tool_call|>"
    )
    _, [(_, arguments)] = read_both("gemma4", text, TOOLS)
    assert json.loads(arguments) == {
        "string": "a{b}:,[<c>",
        "number": -1.5,
        "boolean": True,
        "null": None,
        "array": ["x", 1, [True]],
        "object": {"k": "v", "n": {"m": 2}},
        "integer": 7,
        "words": "1",
        "unknown": 3,
    }
    _, [(_, arguments)] = read_both(
        "functiongemma",
        text.replace(quote, "<escape>")
        .replace("<|tool_call>", "<start_function_call>")
        .replace("<tool_call|>", "<end_function_call>"),
        TOOLS,
    )
    assert json.loads(arguments)["array"] == ["x", 1, [True]]


def test_types_of_a_large_schema_cost_little() -> None:
    wide = {"anyOf": [{"anyOf": [{"type": "integer"}] * 1000}] * 1000}
    assert ToolSchemas({"f": {"properties": {"a": wide}}}).types("f", "a") == {"integer"}


def test_deep_values_are_text() -> None:
    assert json.loads(json_value("[" * 100_000, frozenset({"array"}))) == "[" * 100_000


@pytest.mark.parametrize("spec", ["qwen3_coder", "mimo"])
def test_all_arguments_in_one_are_taken_out_of_it(spec: str) -> None:
    text = qwen("arguments", '{"integer": 5, "string": "x"}')
    _, [(_, arguments)] = read_both(spec, text, TOOLS)
    assert json.loads(arguments) == {"integer": 5, "string": "x"}
    more = "<parameter=any>\n5\n</parameter>\n</function>"
    assert read_both(spec, text.replace("</function>", more), TOOLS)[1] == [("f", arguments)]
    # Not where the function has such an argument, or where it is not an object.
    has_it = ToolSchemas({"f": {"properties": {"arguments": {"type": "string"}}}})
    _, [(_, arguments)] = read_both("qwen3_coder", qwen("arguments", "{}"), has_it)
    assert json.loads(arguments) == {"arguments": "{}"}
    _, [(_, arguments)] = read_both("qwen3_coder", qwen("input", "ls"), TOOLS)
    assert json.loads(arguments) == {"input": "ls"}


def test_elements_in_elements_are_objects_and_arrays() -> None:
    properties = {
        "order": {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {"sku": {"type": "string"}, "n": {"$ref": "#/$defs/N"}},
                },
                {"type": "null"},
            ]
        },
        "list": {"type": "array", "items": {"properties": {"n": {"type": "integer"}}}},
    }
    tools = ToolSchemas({"f": {"properties": properties, "$defs": {"N": {"type": "integer"}}}})
    text = (
        '<tool_call>~<invoke name="f">~<order>\n~<sku>5~</sku>~<n>5~</n>~</order>'
        "~<list>~<x>~<n>1~</n>~</x>~<x>~<n>2~</n>~</x>~</list>"
        "~<free>~<item>a < b~</item>~<item>~<k>v~</k>~</item>~</free>~<last>~<n>1~</invoke>"
    )
    _, [(_, arguments)] = read_both("minimax_m3", f"~{text}".replace("~", "]<]minimax[>["), tools)
    assert json.loads(arguments) == {
        "order": {"sku": "5", "n": 5},
        "list": [{"n": 1}, {"n": 2}],
        "free": ["a < b", {"k": "v"}],
        "last": {"n": "1"},
    }
    deep = "~<tool_call>~<invoke name='f'>" + "~<a>" * 5000 + "x" + "~</a>" * 5000 + "~</invoke>"
    _, [(_, arguments)] = read_both("minimax_m3", deep.replace("~", "]<]minimax[>["), tools)
    assert arguments.count("{") == 64
