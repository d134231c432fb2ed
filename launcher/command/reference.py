"""The reference's flags: which there are, and what Headrace does with those that are not its own.

Both are data: `reference_flags.toml` has their names, kinds and defaults, `reference_effects.toml`
what becomes of them.
"""

import functools
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from headrace.launcher.command.given import Given, Kind

_FLAGS = Path(__file__).with_name("reference_flags.toml")
_EFFECTS = Path(__file__).with_name("reference_effects.toml")
SECTIONS = ("frontend", "engine", "earlier")


class RefusedFlag(Exception):
    """A flag would change something that Headrace cannot. The text says what to do instead."""


@dataclass(frozen=True)
class ReferenceFlag:
    """A flag of the reference. section: "earlier" for flags that it no longer has."""

    name: str
    section: str
    kind: Kind
    default: Any = None
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Effect:
    """What becomes of a flag, or of a key of it ("--flag.key").

    says: to the operator, in one line. harmless: values with which a refused flag changes nothing,
    besides its default.
    """

    treatment: Literal["accepted", "refused"]
    says: str
    harmless: tuple[str, ...] = ()


def version() -> str:
    """Return the reference's version whose flags are listed."""
    return str(_data()["version"])


@functools.cache
def reference_flags() -> Mapping[str, ReferenceFlag]:
    """Return the reference's flags by their names."""
    return {
        name: ReferenceFlag(
            name, section, facts["kind"], facts.get("default"), tuple(facts.get("also", ()))
        )
        for section in SECTIONS
        for name, facts in _data()[section].items()
    }


@functools.cache
def effects() -> Mapping[str, Effect]:
    """Return what becomes of flags and keys that are not Headrace's own, by their names."""
    tables = tomllib.loads(_EFFECTS.read_text(encoding="utf-8"))
    found: dict[str, Effect] = {}
    for treatment in ("accepted", "refused"):
        for table in tables[treatment]:
            harmless = table.get("except", {})
            for name in table["flags"]:
                values = tuple(harmless.get(name, ()))
                found[name] = Effect(treatment, table["says"], values)
    return found


@functools.cache
def synonyms() -> Mapping[str, str]:
    """Return the flags and keys that say what others say, with those."""
    tables = tomllib.loads(_EFFECTS.read_text(encoding="utf-8"))
    return dict(tables["synonyms"])


def parts(name: str, value: Given) -> Iterator[tuple[str, Given]]:
    """Yield the keys of a flag's value that have effects of their own; else the flag itself."""
    known = effects().keys() | synonyms().keys()
    if not isinstance(value, dict) or not any(each.startswith(f"{name}.") for each in known):
        yield name, value
        return
    for key, part in value.items():
        given = part if isinstance(part, bool | dict) else _text(part)
        yield (f"{name}.{key}" if f"{name}.{key}" in known else name), given


def notice(name: str, value: Given) -> str | None:
    """Return the line for the log about a flag that changes nothing; None if it is not given.

    Raises RefusedFlag if it would change something.
    """
    flag, effect = reference_flags().get(name), effects()[name]
    if value in ("", "None") and (flag is None or flag.kind == "value"):
        return None
    if effect.treatment == "accepted":
        return f"{name} changes nothing: {effect.says}"
    if not _is_harmless(value, flag, effect):
        raise RefusedFlag(f"{name}: {effect.says}")
    return f"{name} changes nothing: what it asks for is so without it"


def _is_harmless(value: Given, flag: ReferenceFlag | None, effect: Effect) -> bool:
    if isinstance(value, bool):
        return value is bool(flag.default if flag is not None else False)
    if not value:  # an empty list or object
        return flag is not None and flag.kind == "json"
    if not isinstance(value, str):
        return False
    if value in effect.harmless:
        return True
    if flag is None or flag.default is None:
        return flag is not None and flag.kind == "json" and value.strip() in ("[]", "{}", "null")
    return value == str(flag.default) or _number(value) == flag.default


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@functools.cache
def _data() -> Mapping[str, Any]:
    return tomllib.loads(_FLAGS.read_text(encoding="utf-8"))
