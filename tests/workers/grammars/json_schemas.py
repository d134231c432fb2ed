"""JSON schemas of the shapes that the public JSON-Schema test suite has, and odd ones."""

from typing import Any

Schema = Any
STRING, INTEGER, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}


def closed(properties: dict[str, Schema], **more: Any) -> Schema:
    """An object with these properties, all of them and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }


def items(item: Schema, low: int = 0, high: int = 3) -> Schema:
    return {"type": "array", "items": item, "minItems": low, "maxItems": high}


def scalars() -> list[Schema]:
    kinds = ["string", "integer", "number", "boolean", "null", "object", "array"]
    found: list[Schema] = [{"type": kind} for kind in kinds]
    found += [{"type": [kind, "null"]} for kind in kinds]
    found += [{"enum": values} for values in (["a"], [1, "1", None], [True, False], [{"a": [1]}])]
    constants: list[Any] = [1, -0.5, "x\ny", None, True, [1, {"b": "c"}], {}, "é"]
    found += [{"const": value} for value in constants]
    found += [{"type": "string", "minLength": n, "maxLength": n + 2} for n in (0, 1, 5, 30)]
    found += [{"type": "string", "maxLength": n} for n in (0, 1, 10, 25, 50, 100)]
    return found


def numbers() -> list[Schema]:
    found: list[Schema] = []
    for low, high in ((0, 9), (-5, 5), (10, 1000), (-1000, -999), (7, 7), (0, 10**12)):
        found.append({"type": "integer", "minimum": low, "maximum": high})
        found.append({"type": "number", "minimum": low, "maximum": high})
        found.append({"type": "integer", "exclusiveMinimum": low - 1, "exclusiveMaximum": high + 1})
    found += [{"type": "integer", "multipleOf": n} for n in (2, 3, 7, 10)]
    found += [{"type": "integer", "multipleOf": 5, "minimum": 3, "maximum": 22}]
    found += [{"type": "number", "multipleOf": 0.5}, {"type": "number", "exclusiveMinimum": 0}]
    return found


def patterns() -> list[Schema]:
    written = [r"^\d{3}-\d{4}$", r"^[a-z]+$", "abc", r"^(a|b)*c$", r"^\S{2,4}$", r"^é{2}$", r"x$"]
    written += [
        r"^\w+@\w+\.(com|org)$",
        r"^[^\"\\]{1,5}$",
        r"^(\(\d{3}\))?\d{3}$",
        "^$",
        r"^a?b*c+$",
    ]
    formats = ["date", "time", "date-time", "email", "uuid", "ipv4", "ipv6", "hostname", "duration"]
    found: list[Schema] = [{"type": "string", "pattern": pattern} for pattern in written]
    found += [{"type": "string", "format": name} for name in formats]
    found += [{"type": "string", "format": name} for name in ("uri", "regex", "no-such-format")]
    return found


def arrays() -> list[Schema]:
    found = [items(each, low, low + 2) for each in (STRING, INTEGER, {}) for low in (0, 1, 3)]
    found += [
        {"type": "array", "prefixItems": [INTEGER, STRING], "items": False},
        {"type": "array", "prefixItems": [INTEGER, STRING], "items": INTEGER, "maxItems": 4},
        {"type": "array", "prefixItems": [{"const": 1}], "minItems": 1, "maxItems": 1},
        {"type": "array", "maxItems": 0},
        items(items(items(INTEGER))),
        {"type": "array", "uniqueItems": True},
        {"type": "array", "contains": INTEGER},
        {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2},
    ]
    return found


def objects() -> list[Schema]:
    found = [
        closed({f"p{n}": each for n in range(count)})
        for count in (0, 1, 3, 8)
        for each in (INTEGER, {"type": "boolean"}, items(INTEGER))
    ]
    found += [
        {"type": "object", "properties": {"a": INTEGER}, "additionalProperties": False},
        {"type": "object", "properties": {"a": INTEGER, "b": STRING}, "required": ["b"]},
        {"type": "object", "additionalProperties": INTEGER},
        {"type": "object", "additionalProperties": False},
        {"type": "object", "patternProperties": {"^x": INTEGER}, "additionalProperties": False},
        {"type": "object", "required": ["unnamed"]},
        {"type": "object", "minProperties": 2},
        {"type": "object", "propertyNames": {"pattern": "^a"}},
        {"type": "object", "dependentRequired": {"a": ["b"]}},
        closed({'quo"te\n': INTEGER, "é": INTEGER, "": INTEGER, "$ref": INTEGER}),
        closed({"a": closed({"b": closed({"c": closed({"d": INTEGER})})})}),
    ]
    return found


def forms() -> list[Schema]:
    """As programs send them: several kinds in one object."""
    found = []
    for number in range(24):
        properties: dict[str, Schema] = {
            "id": {"type": "integer", "minimum": number},
            "name": {"type": "string", "minLength": number % 3, "maxLength": 8},
            "tags": items({"enum": ["a", "b", number]}, number % 2, 2),
            "at": {"type": "string", "format": "date"},
            "size": {"anyOf": [{"type": "null"}, {"type": "number", "minimum": 0, "maximum": 9}]},
            "nested": closed({"ok": {"type": "boolean"}}, title="inner", description="of a form"),
        }
        chosen = {key: properties[key] for key in list(properties)[: 1 + number % 6]}
        found.append({**closed(chosen), "title": f"form {number}", "$comment": "x"})
    return found


def combined() -> list[Schema]:
    kinds = [closed({"kind": {"const": name}, "n": INTEGER}) for name in "abc"]
    short = {"type": "string", "maxLength": 4}
    found: list[Schema] = [
        {"anyOf": kinds},
        {"oneOf": kinds},
        {"anyOf": [INTEGER, short]},
        {"oneOf": [INTEGER, short]},
        {"oneOf": [INTEGER, NUMBER]},
        {"allOf": [INTEGER, {"minimum": 3}, {"maximum": 5}]},
        {"allOf": [{"properties": {"a": INTEGER}}, {"properties": {"b": short}}], "type": "object"},
        {"allOf": [INTEGER, short]},
        {"not": INTEGER},
        {"if": {"const": 1}, "then": INTEGER, "else": short},
        {"anyOf": [{"type": "null"}, closed({"a": {"anyOf": [INTEGER, short]}})]},
        {"type": "string", "anyOf": [{"pattern": "^a"}, {"pattern": "^b"}], "maxLength": 3},
    ]
    found += [{"anyOf": [{"const": n} for n in range(count)]} for count in (1, 2, 10, 100)]
    found += [closed({"a": each, "b": each}) for each in found[:4]]
    return found


def references() -> list[Schema]:
    tree = closed({"value": INTEGER, "children": items({"$ref": "#/$defs/tree"}, 0, 2)})
    linked = closed({"next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}})
    return [
        {"$defs": {"n": INTEGER}, "$ref": "#/$defs/n"},
        {"definitions": {"n": INTEGER}, "type": "array", "items": {"$ref": "#/definitions/n"}},
        {"$defs": {"tree": tree}, "$ref": "#/$defs/tree"},
        linked,
        {"$defs": {"a/b": INTEGER, "c~d": STRING}, **closed({"x": {"$ref": "#/$defs/a~1b"}})},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": INTEGER}, "$ref": "#/$defs/a"},
        {"$defs": {"p": closed({"q": items({"$ref": "#/$defs/p"})})}, "$ref": "#/$defs/p"},
        {"$ref": "#/$defs/missing"},
        {"$ref": "http://127.0.0.1:1/schema.json"},
        {"$ref": "file:///etc/passwd"},
        {
            "$id": "http://example.com/x",
            "$defs": {"n": INTEGER},
            **closed({"a": {"$ref": "#/$defs/n"}}),
        },
    ]


def _nested(depth: int, wrap: Any) -> Schema:
    inner: Schema = INTEGER
    for _ in range(depth):
        inner = wrap(inner)
    return inner


def odd() -> list[Schema]:
    """No text conforms to some, or none that comes to an end; others are none, or are large."""
    cycle = {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}
    return [
        {"enum": [f"value number {n}" for n in range(1000)]},
        _nested(20, lambda inner: closed({"a": inner})),
        _nested(20, lambda inner: {"type": "array", "items": inner}),
        {"type": "string", "minLength": 500},
        {"type": "array", "minItems": 500},
        {"$ref": "#"},
        {"$defs": cycle, "$ref": "#/$defs/a"},
        {"$defs": {"n": closed({"n": {"$ref": "#/$defs/n"}})}, "$ref": "#/$defs/n"},
        closed({f"p{n}": {"type": ["integer", "null"]} for n in range(150)}),
        {"type": "object", "properties": {f"p{n}": INTEGER for n in range(100)}},
        {"type": "integer", "minimum": 5, "maximum": 4},
        {"type": "string", "minLength": 5, "maxLength": 4},
        {"enum": []},
        {"type": "nonsense"},
        {"type": 5},
        {"properties": 3},
        {"type": "string", "pattern": "("},
        {"type": "string", "pattern": "a(?=b)"},
        {"unevaluatedProperties": False, "type": "object"},
        {"x-guidance": {"whitespace_pattern": "(("}, "type": "object"},
        {"type": "number", "multipleOf": 1e-300},
        {"type": "integer", "maximum": 1e308},
    ]


def all_schemas() -> list[Schema]:
    benign = (
        scalars()
        + numbers()
        + patterns()
        + arrays()
        + objects()
        + forms()
        + combined()
        + references()
    )
    return benign + odd()
