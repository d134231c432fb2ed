"""The plug-ins that know how models write calls of tools, and where they are registered.

A plug-in is a class:

    from headrace.frontend.chat.tools.parser import ToolParser, register_tool_parser

    @register_tool_parser("mine")
    class MyParser(ToolParser):
        def read(self, source, output):
            ...

in a file that the operator names with --tool-parser-plugin.
"""

import importlib.util
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Source, Step


class ParserError(Exception):
    """A parser that cannot be had; the text is one line that says why."""


class CallTag(NamedTuple):
    """How a model writes a call, for those that write its arguments as JSON.

    start: what stands before a call; text that is no call does not hold it.
    begin: what stands between `start` and the arguments, by the function's name.
    end: what stands after them.
    is_whole_text: whether calls are all of a text; then `start` may be missing, and text that does
        not begin with it or with a brace is free.
    """

    start: str
    begin: Callable[[str], str]
    end: str
    is_whole_text: bool = False


class ToolParser:
    """Reads the calls in one model's texts. One object serves all requests, so it keeps nothing.

    marks: tokens that `read` has to see. They come in the text even though they are special.
    tag: for grammars that hold calls to their functions' schemas; None: this parser has none.
    """

    marks: tuple[str, ...] = ()
    tag: CallTag | None = None

    def __init__(self, settings: str = "") -> None:
        """settings: what follows the parser's name and a colon in --tool-call-parser. ParserError
        for those that it does not know."""
        if settings:
            raise ParserError("this parser takes no settings")

    def read(self, source: Source, output: ParserOutput) -> Step[None]:
        """Read one text from its beginning: what is no call goes to `output` as content. Text that
        is left when this returns is content too."""
        raise NotImplementedError

    def new_id(self) -> str:
        """The id of a call."""
        return f"chatcmpl-tool-{secrets.token_hex(8)}"


_PARSERS: dict[str, type[ToolParser]] = {}

P = TypeVar("P", bound=type[ToolParser])


def register_tool_parser(*names: str) -> Callable[[P], P]:
    """Register a parser under the names that --tool-call-parser may give; a later one replaces an
    earlier one of the same name."""

    def register(parser: P) -> P:
        _PARSERS.update(dict.fromkeys(names, parser))
        return parser

    return register


def names() -> list[str]:
    """The names of all parsers that are registered."""
    return sorted(_PARSERS)


def make(spec: str) -> ToolParser:
    """The parser that "NAME" or "NAME:SETTINGS" means. ParserError if there is none."""
    name, _, settings = spec.partition(":")
    parser = _PARSERS.get(name)
    if parser is None:
        raise ParserError(f"{name[:100]!r} is none of {', '.join(names())}")
    return parser(settings)


def load_plugin(path: Path) -> None:
    """Run a file that registers parsers. ParserError if it cannot be run or registers none."""
    before = dict(_PARSERS)
    spec = importlib.util.spec_from_file_location(f"headrace_tool_parser_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ParserError(f"{path}: is no Python file")
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except Exception as error:  # it is not our code
        raise ParserError(f"{path}: {type(error).__name__}: {error}") from error
    if before == _PARSERS:
        raise ParserError(f"{path}: registers no parser (see frontend/chat/tools/parser.py)")
