"""Strategies of request bodies, from the JSON schemas of an OpenAPI document.

A body mostly follows its schema, with few of the optional fields, since the first bad field ends a
request: values of other kinds, unknown fields and extremes come in between.
"""

from typing import Any

from hypothesis import strategies as st

# Fields without which most requests would do much, or nothing.
_ALWAYS = ("max_tokens", "max_output_tokens", "prompt")
# Besides plain words: what parsers and templates treat in a way of their own.
_WORDS = (
    "x",
    "text",
    "user",
    "assistant",
    "system",
    "tool",
    "function",
    "auto",
    "none",
    "a.b",
    "é",
)
_MARKS = ("<|im_end|>", "</think>", "<tool_call>", "{", '{"a": 1}', "😀")
_TEXT = st.sampled_from(_WORDS + _MARKS) | st.text("abc é\n{", min_size=1, max_size=8)
_ANY_TEXT = _TEXT | st.sampled_from(("", "\0", "\ud800")) | st.text(max_size=8)
# Fields that say how much work a request is: mostly little. Others that are mostly wrong if any
# value will do.
_FEW = st.integers(1, 8)
_SMALL = {
    "max_tokens": _FEW,
    "max_completion_tokens": _FEW,
    "max_output_tokens": _FEW,
    "n": st.integers(1, 3),
    "prompt": _TEXT | st.lists(st.integers(0, 300), min_size=1, max_size=5),
    "new_data_parallel_size": st.just(1),
    "timeout": st.floats(0.1, 1.0),
    "drain_timeout": st.floats(0.0, 1.0),
}
_NUMBERS = st.sampled_from([0, -1, 1, 2, 0.5, 2**31, -(2**63), 2**64, 10**30, 1e308, float("inf")])
ANYTHING = st.recursive(
    st.none() | st.booleans() | _NUMBERS | st.integers() | st.floats() | _ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
# Objects whose schema says nothing, such as the items and tools of a response.
_KINDS = st.sampled_from(
    [
        *("message", "reasoning", "compaction", "web_search_call", "item_reference", "namespace"),
        *("function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"),
        *(
            "function",
            "custom",
            "web_search",
            "mcp",
            "input_text",
            "output_text",
            "object",
            "string",
        ),
    ]
)
_FREE_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("id", "call_id", "name", "text", "arguments", "output", "input"), _TEXT),
    "role": st.sampled_from(["user", "assistant", "system", "developer"]),
    "content": _TEXT | st.lists(st.fixed_dictionaries({"type": _KINDS, "text": _TEXT}), max_size=2),
    "parameters": st.just({"type": "object", "properties": {"a": {"type": "string"}}}),
    "properties": st.dictionaries(_TEXT, st.fixed_dictionaries({"type": _KINDS}), max_size=2),
    "tools": st.lists(st.fixed_dictionaries({"type": _KINDS, "name": _TEXT}), max_size=2),
    "strict": st.booleans(),
}
_FREE = st.fixed_dictionaries({"type": _KINDS}, optional=_FREE_FIELDS) | st.fixed_dictionaries(
    {"role": _FREE_FIELDS["role"], "content": _FREE_FIELDS["content"]}
)
_MAX_DEPTH = 7
_MAX_OPTIONAL = 3


def bodies(
    schema: dict[str, Any], components: dict[str, Any], model: str
) -> st.SearchStrategy[Any]:
    """Return a strategy of bodies. components: schemas by name. model: a name that is served."""
    return _Bodies(components, model).values(schema, 0)


class _Bodies:
    def __init__(self, components: dict[str, Any], model: str) -> None:
        self._components = components
        self._small = {**_SMALL, "model": st.just(model)}

    def values(self, schema: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
        """Return a strategy of values that mostly follow a schema."""
        return self._rarely_anything(st.deferred(lambda: self._valid(schema, depth)))

    def _rarely_anything(self, valid: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.integers(0, 24).flatmap(lambda draw: ANYTHING if draw == 24 else valid)

    def _valid(self, schema: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
        if "$ref" in schema:
            schema = self._components[schema["$ref"].rpartition("/")[2]]
        if depth > _MAX_DEPTH:
            return ANYTHING
        for options in ("anyOf", "oneOf"):
            if options in schema:
                return st.one_of([self._valid(each, depth + 1) for each in schema[options]])
        if "enum" in schema:
            return st.sampled_from(schema["enum"])
        if "const" in schema:
            return st.just(schema["const"])
        kind = schema.get("type")
        if kind == "object" and "properties" not in schema:
            return _FREE | self._objects(schema, depth)
        if kind == "object" or "properties" in schema:
            return self._objects(schema, depth)
        if kind is None and "default" in schema:  # of a field whose other values are refused
            return st.just(schema["default"])
        if kind == "array":
            items = self.values(schema.get("items", {}), depth + 1)
            return st.lists(items, min_size=1, max_size=3) | st.lists(items, max_size=1)
        return _scalars(schema, kind)

    def _objects(self, schema: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
        properties = schema.get("properties", {})
        required = list(schema.get("required", ()))
        optional = sorted(properties.keys() - set(required))
        always = [name for name in _ALWAYS if name in optional]

        @st.composite
        def objects(draw: st.DrawFn) -> dict[str, Any]:
            chosen = [*required, *always]
            if optional:
                count = _MAX_OPTIONAL if depth == 0 else 2
                more = st.lists(st.sampled_from(optional), max_size=count, unique=True)
                chosen += [name for name in draw(more) if name not in chosen]
            made = {name: draw(self._field(name, properties[name], depth)) for name in chosen}
            if not properties or draw(st.integers(0, 7)) == 7:
                made |= draw(st.dictionaries(_ANY_TEXT, ANYTHING, min_size=1, max_size=2))
            return made

        return objects()

    def _field(self, name: str, schema: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
        small = self._small.get(name)
        if small is None or not schema.keys() & {"type", "anyOf", "$ref"}:
            return self.values(schema, depth + 1)
        return self._rarely_anything(small)


def _scalars(schema: dict[str, Any], kind: str | None) -> st.SearchStrategy[Any]:
    if kind == "boolean":
        return st.booleans()
    if kind == "null":
        return st.none()
    if kind == "string":
        return _TEXT
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if kind == "integer":
        return st.integers(low if low is None else int(low), high if high is None else int(high))
    if kind == "number":
        return st.floats(low, high, allow_nan=False, allow_infinity=False)
    return ANYTHING
