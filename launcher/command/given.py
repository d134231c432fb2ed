"""A command line as flags and their values, before any of them has a meaning.

Names may be written with underscores for dashes; `--no-x`, and `--disable-x` for `--enable-x`, turn
a flag off; `--x.key value` sets a key of a JSON object.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from headrace.launcher.access.secret_arguments import SECRET_FLAGS

# "value", "values" and "optional" (a value or none) take text, "append" may be repeated, "json"
# takes an object, "switch" and "set" nothing.
Kind = Literal["value", "values", "optional", "append", "json", "switch", "set"]
Given = bool | str | tuple[str, ...] | dict[str, Any]

_FLAG = re.compile(r"--?[A-Za-z]")
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_HUMAN = re.compile(r"(\d{1,30}(?:\.\d{1,30})?)([kKmMgGtT])")
_POWERS = "kmgt"
_MOST_KEYS = 20  # in the path of one
MODEL = "--model"
HELP = "--help"


class BadFlag(Exception):
    """A flag is unknown, or lacks its value. The text is one line."""


@dataclass(frozen=True)
class KnownFlag:
    """A flag that may be given. name: what its values are kept under."""

    name: str
    kind: Kind


@dataclass
class _Words:
    """Words of a command line that are still to be read."""

    words: Sequence[str]
    next: int = 0
    given: dict[str, Given] = field(default_factory=dict)

    def take(self) -> str:
        self.next += 1
        return self.words[self.next - 1]

    def is_value(self) -> bool:
        """Return whether the next word is a value, and no flag."""
        return self.next < len(self.words) and not _FLAG.match(self.words[self.next])

    def is_boolean(self) -> bool:
        return self.is_value() and self.words[self.next].lower() in ("true", "false")


def read_words(words: Sequence[str], known: Mapping[str, KnownFlag]) -> dict[str, Given]:
    """Return the values of flags by their names. known: by all that may be written for them.

    The model may be given without a flag. Of a flag given twice, the last value holds.

    Raises BadFlag if a flag is unknown or lacks its value.
    """
    left = _Words(_spelled_out(words))
    positional: str | None = None
    while left.next < len(left.words):
        word = left.take()
        if _FLAG.match(word):
            _read_flag(word, left, known)
        elif positional is None:
            positional = word
        else:
            shown = "a word" if SECRET_FLAGS.keys() & left.given.keys() else repr(word)
            raise BadFlag(f"{shown}: is neither a flag nor the value of one")
    if positional is not None:
        left.given[MODEL] = positional
    return left.given


def read_mapping(
    options: Iterable[tuple[object, object]], known: Mapping[str, KnownFlag]
) -> dict[str, Given]:
    """Return the values of flags that a file gives, by their names, as `read_words` does.

    Raises BadFlag if a flag is unknown or its value is of the wrong kind.
    """
    given: dict[str, Given] = {}
    for key, value in options:
        if value is None:
            continue
        flag, path, is_off = _find(f"--{key}", known)
        if path:
            _set_key(given, flag.name, path, value)
        else:
            given[flag.name] = _of_kind(flag, value, is_off)
    return given


def _of_kind(flag: KnownFlag, value: object, is_off: bool) -> Given:
    if flag.kind in ("switch", "set"):
        chosen = value if isinstance(value, bool) else _BOOLEANS.get(str(value).lower())
        if chosen is None:
            raise BadFlag(f"{flag.name}: must be true or false: {value!r}")
        return chosen is not is_off
    if flag.kind in ("values", "append"):
        return tuple(_text(each) for each in (value if isinstance(value, list) else [value]))
    if isinstance(value, dict) and flag.kind == "json":
        return value
    return _text(value)


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, list | dict | bool) else str(value)


def _spelled_out(words: Sequence[str]) -> list[str]:
    """Write out the short forms that stick to their values: -O3, -q8, -n2."""
    spelled: list[str] = []
    for word in words:
        match = re.fullmatch(r"-([Oqnr])=?(.+)", word)
        if match is not None:
            spelled += [f"-{match[1]}", match[2]]
        else:
            spelled.append(word)
    return spelled


def _read_flag(word: str, left: _Words, known: Mapping[str, KnownFlag]) -> None:
    written, equals, text = word.partition("=")
    flag, path, is_off = _find(written, known)
    value = text if equals else None
    if path:
        _set_key(left.given, flag.name, path, _key_value(written, value, left))
    elif flag.kind in ("switch", "set"):
        if value is None and left.is_boolean():
            value = left.take()
        chosen = True if value is None else _BOOLEANS.get(value.lower())
        if chosen is None:
            raise BadFlag(f"{flag.name}: takes no value but true or false")
        left.given[flag.name] = chosen is not is_off
    elif flag.kind in ("values", "append"):
        values = [_value(flag.name, value, left)]
        while flag.kind == "values" and not equals and left.is_value():
            values.append(left.take())
        if flag.name in SECRET_FLAGS and not equals:
            _check_next(flag.name, left, known)
        before = left.given.get(flag.name, ())
        kept = before if flag.kind == "append" and isinstance(before, tuple) else ()
        left.given[flag.name] = (*kept, *values)
    elif flag.kind == "optional" and value is None and not left.is_value():
        left.given[flag.name] = True
    else:
        left.given[flag.name] = _value(flag.name, value, left)


def _value(name: str, value: str | None, left: _Words) -> str:
    if value is None:
        if not left.is_value():
            raise BadFlag(f"{name}: needs a value")
        return left.take()
    return value


def _check_next(name: str, left: _Words, known: Mapping[str, KnownFlag]) -> None:
    """Raise BadFlag, without showing it, if the next word looks like a flag and is none."""
    if left.next < len(left.words):
        try:
            _find(left.words[left.next].partition("=")[0], known)
        except BadFlag:
            text = f"{name}: a value that begins with - must be written as {name}=VALUE"
            raise BadFlag(text) from None


def _find(written: str, known: Mapping[str, KnownFlag]) -> tuple[KnownFlag, list[str], bool]:
    """Return a flag, the path of the key that is meant, and whether the flag is turned off."""
    head, dot, tail = written.partition(".")
    name = head[:2] + head[2:].replace("_", "-") if head.startswith("--") else head
    path = tail.split(".") if dot else []
    flag, is_off = known.get(name), False
    if flag is None and name.startswith("--no-"):
        flag, is_off = _switch("--" + name[5:], known), True
        if flag is None and (opposite := opposite_of("--" + name[5:])) is not None:
            flag, is_off = _switch(opposite, known), False
    if flag is None and (opposite := opposite_of(name)) is not None:
        flag, is_off = _switch(opposite, known), True
    if flag is None:
        raise BadFlag(f"{written[:100]}: {_unknown(name, known)}")
    if path and (flag.kind != "json" or not all(path) or len(path) > _MOST_KEYS):
        raise BadFlag(f"{written[:100]}: no such key")
    return flag, path, is_off


def _switch(name: str, known: Mapping[str, KnownFlag]) -> KnownFlag | None:
    flag = known.get(name)
    return flag if flag is not None and flag.kind in ("switch", "set") else None


def opposite_of(name: str) -> str | None:
    """Return the flag that turns off what a flag turns on; None if its name tells of none."""
    for prefix, other in (("--disable-", "--enable-"), ("--enable-", "--disable-")):
        if name.startswith(prefix):
            return other + name.removeprefix(prefix)
    return None


def _unknown(name: str, known: Mapping[str, KnownFlag]) -> str:
    near = difflib.get_close_matches(name[:60], known, n=1)
    return "no such flag" + (f" (did you mean {near[0]}?)" if near else "")


def _key_value(written: str, value: str | None, left: _Words) -> object:
    text = _value(written, value, left)
    if written.endswith("+"):
        return text.split(",")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _human_number(text)


def _human_number(text: str) -> object:
    """Return "8k" as 8000 and "8K" as 8192, and other text as it is."""
    match = _HUMAN.fullmatch(text)
    if match is None:
        return text
    number, unit = match.groups()
    base = 1000 if unit.islower() else 1024
    return int(Fraction(number) * base ** (_POWERS.index(unit.lower()) + 1))


def _set_key(given: dict[str, Given], name: str, path: Sequence[str], value: object) -> None:
    """Set a key of a flag's object, whatever else of it has been given."""
    before = given.get(name, {})
    whole = _object(before) if isinstance(before, str) else before
    if not isinstance(whole, dict):
        raise BadFlag(f"{name}: is not an object, so that it has no key {path[0]!r}")
    given[name] = _with_key(whole, path, value)


def _with_key(whole: dict[str, Any], path: Sequence[str], value: object) -> dict[str, Any]:
    key = path[0].removesuffix("+") if len(path) == 1 else path[0]
    before = whole.get(key)
    if len(path) > 1:
        value = _with_key(before if isinstance(before, dict) else {}, path[1:], value)
    elif isinstance(before, list) and isinstance(value, list):
        value = [*before, *value]
    return {**whole, key: value}


def _object(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
