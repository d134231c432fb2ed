#!/usr/bin/env bash
# llguidance compiles JSON schemas to grammars. It refuses `oneOf` whose alternatives may both match,
# and takes it where they cannot, such as objects told apart by a required constant.
#
# A good guess: it makes no difference whether the alternatives are written in place or by `$ref`, the
# way in which pydantic writes its discriminated unions.
# What happens: alternatives by `$ref` are refused, the same ones in place are taken.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check llguidance==1.9.1

cat >"$folder/schema.py" <<'PY'
import json

from llguidance import LLMatcher


def pet(kind: str) -> dict:
    named = {"kind": {"const": kind}, "age": {"type": "integer"}}
    return {"type": "object", "properties": named, "required": ["kind", "age"]}


def verdict(alternatives: list, **more: object) -> str:
    grammar = LLMatcher.grammar_from_json_schema(json.dumps({"oneOf": alternatives, **more}))
    error = LLMatcher.validate_grammar(grammar)
    return "refused" if error else "taken"


in_place = verdict([pet("cat"), pet("dog")])
definitions = {"Cat": pet("cat"), "Dog": pet("dog")}
print(in_place, verdict([{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}], **{"$defs": definitions}))
PY
echo "llguidance $("$folder/venv/bin/python" -c 'from importlib.metadata import version as v; print(v("llguidance"))')"
seen="$("$folder/venv/bin/python" "$folder/schema.py")"
echo "in place, by reference (the guess: taken taken): $seen"
[ "$seen" = "taken refused" ]
