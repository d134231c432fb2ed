"""The parser of flags with its --help, and tables of flags for the documentation."""

import argparse
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from pydantic.fields import FieldInfo

from headrace.launcher.command.flags import FLAGS, Flag

Fields = Mapping[str, FieldInfo]

_ACTIONS: dict[str, dict[str, Any]] = {
    "value": {},
    "values": {"nargs": "+"},
    "set": {"action": "store_true"},
    "switch": {"action": argparse.BooleanOptionalAction},
}


class BadFlag(Exception):
    """A flag is unknown, or lacks its value. The text is one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadFlag(message)


def new_parser(fields: Fields) -> argparse.ArgumentParser:
    """Return a parser, whose help is from the fields of the options.

    It leaves values as text, under the keys of options, and leaves out what was not given. It
    raises BadFlag for flags that it does not know.
    """
    parser = _Parser(
        prog="headrace serve",
        description="Serve language models over HTTP from a pool of workers.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for title, flags in FLAGS.items():
        group = parser.add_argument_group(title)
        for flag in flags:
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
        cells = (names, _escape(_description(flag, fields)), _escape(_default(flag, fields)))
        rows.append("".join(f"| {cell} " if cell else "| " for cell in cells) + "|")
    return "\n".join(rows)


def _escape(text: str) -> str:
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
    return (_description(flag, fields) + tail).replace("%", "%%")


def _description(flag: Flag, fields: Fields) -> str:
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
