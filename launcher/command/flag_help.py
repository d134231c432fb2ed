"""The text of --help, and tables of flags for the documentation."""

import argparse
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic.fields import FieldInfo

from headrace.launcher.command.flags import FLAGS, Flag
from headrace.launcher.command.reference import effects, reference_flags, synonyms, version

Fields = Mapping[str, FieldInfo]

_ACTIONS: dict[str, dict[str, Any]] = {
    "value": {},
    "values": {"nargs": "+"},
    "optional": {"nargs": "?"},
    "append": {"action": "append"},
    "json": {},
    "set": {"action": "store_true"},
    "switch": {"action": argparse.BooleanOptionalAction},
}
_TITLE = "flags of the reference"
_EPILOG = """
Names may have underscores for dashes. --no-FLAG turns a switch off, --FLAG.key VALUE sets a key of
a JSON object, --help=WORD shows the flags with a word. docs/options.md says what becomes of each
flag of the reference.
"""


def help_text(fields: Fields, word: str = "") -> str:
    """Return the help of `headrace serve`. word: show only the flags whose names have it."""
    if word:
        return _found(fields, word.lower().lstrip("-").replace("_", "-"))
    parser = _new_parser(fields)
    parser.add_argument("MODEL", nargs="?", help="the same as --model")
    parser.epilog = " ".join(_EPILOG.split())
    before, _, after = parser.format_help().rpartition("\n\n")
    return f"{before}\n\n{_summary()}\n{after}"


def _found(fields: Fields, word: str) -> str:
    parser = _new_parser(fields, word)
    found = parser.format_help().lstrip("\n")
    lines = [
        f"  {name}: {effect.treatment}: {effect.says}"
        for name, effect in effects().items()
        if word in name
    ]
    lines += [f"  {name}: sets {other}" for name, other in synonyms().items() if word in name]
    if lines:
        found += "\n".join([f"\n{_TITLE}:", *lines, ""])
    return found or f"no flag has {word!r} in its name (headrace serve --help lists all)\n"


def _summary() -> str:
    """Return which flags of the reference are accepted and refused."""
    lines = [f"{_TITLE} (vLLM {version()}) that are not among these:"]
    names = list(reference_flags().keys() & effects().keys())
    for treatment, what in (
        ("accepted", "change nothing here, which the log says"),
        ("refused", "would change something, unless they have their default value"),
    ):
        chosen = sorted(name for name in names if effects()[name].treatment == treatment)
        lines += textwrap.wrap(
            f"{what}: {' '.join(chosen)}",
            width=100,
            initial_indent="  ",
            subsequent_indent="    ",
            break_on_hyphens=False,
        )
    return "\n".join([*lines, ""])


def _new_parser(fields: Fields, word: str = "") -> argparse.ArgumentParser:
    """Return a parser for its help, which is from the fields of the options."""
    parser = argparse.ArgumentParser(
        prog="headrace serve",
        usage="headrace serve [MODEL] [FLAGS]" if not word else argparse.SUPPRESS,
        description=None if word else "Serve language models over HTTP from a pool of workers.",
        add_help=not word,
    )
    for title, flags in FLAGS.items():
        group = parser.add_argument_group(title)
        for flag in flags:
            if not any(word in name for name in flag.names):
                continue
            keywords = dict(_ACTIONS[flag.kind])
            if flag.metavar is not None:
                keywords["metavar"] = flag.metavar
            if flag.choices is not None:
                keywords["choices"] = flag.choices
            group.add_argument(*flag.names, dest=flag.key, help=_help(flag, fields), **keywords)
    return parser


def flag_table(keys: Iterable[str], fields: Fields) -> str:
    """Return a Markdown table of the flags of some options."""
    flags = {flag.key: flag for group in FLAGS.values() for flag in group}
    rows = ["| flag | what it does | default |", "|---|---|---|"]
    for key in keys:
        flag = flags[key]
        names = ", ".join(f"`{_written(flag, name)}`" for name in flag.names)
        cells = (names, escape(description(flag, fields)), escape(_default(flag, fields)))
        rows.append("".join(f"| {cell} " if cell else "| " for cell in cells) + "|")
    return "\n".join(rows)


def key_table() -> str:
    """Return a Markdown table of the options whose key in a file may differ from their flag."""
    rows = ["| key of a file | flag |", "|---|---|"]
    for flags in FLAGS.values():
        for flag in flags:
            name = flag.names[0].removeprefix("--").replace("-", "_")
            if name != flag.key:
                rows.append(f"| `{name}`, `{flag.key}` | `{flag.names[0]}` |")
    return "\n".join(rows)


def escape(text: str) -> str:
    """Return plain text for a cell of a Markdown table."""
    return text.replace("|", r"\|").replace("<", "&lt;")


def _written(flag: Flag, name: str) -> str:
    if flag.kind == "switch":
        return name.replace("--", "--[no-]", 1)
    return f"{name} {flag.metavar} ..." if flag.kind == "values" and flag.metavar else name


def _help(flag: Flag, fields: Fields) -> str:
    if flag.is_hidden:
        return argparse.SUPPRESS
    default = _default(flag, fields)
    # That a flag is off without being given needs no words.
    tail = f" ({default})" if default and flag.kind != "set" else ""
    return (description(flag, fields) + tail).replace("%", "%%")


def description(flag: Flag, fields: Fields) -> str:
    """Return what a flag does."""
    return flag.help or fields[flag.key].description or ""


def _default(flag: Flag, fields: Fields) -> str:
    """Return the default in words; "" if there is none to tell."""
    if flag.default or flag.key not in fields:
        return flag.default
    value = fields[flag.key].get_default(call_default_factory=True)
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value)
