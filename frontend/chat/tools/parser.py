"""The base class of tool parsers, and their registry.

A plug-in is a Python file that the operator passes with --tool-parser-plugin. It registers
subclasses of ToolParser:

    from headrace.frontend.chat.tools.parser import ToolParser, register_tool_parser

    @register_tool_parser("mine")
    class MyParser(ToolParser):
        def read(self, source, output):
            ...

docs/tools.md has a complete example.
"""

import contextlib
import importlib.util
import secrets
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple, TypeVar

from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Incremental, Source


class ParserError(Exception):
    """A parser is not available; the message says why in one line."""


class ParameterSyntax(NamedTuple):
    """The format of arguments that are not one JSON value.

    begin: a function from a parameter's name and types to what stands before its value. The value
        of one that may be a string stands there as it is, other values are JSON.
    end: the text after a value, which no text value contains.
    """

    begin: Callable[[str, frozenset[str]], str]
    end: str


class CallSyntax(NamedTuple):
    """The format of a call, for grammars that hold the model to functions' schemas.

    start: the text at the beginning of a call; free text does not contain it.
    begin: a function from the called function's name to the text between `start` and the arguments.
    end: the text after the arguments.
    is_whole_text: whether calls are JSON objects without tags. `start` is then optional, and free
        text contains no brace with a quote after it.
    parameters: how arguments are written that are not a JSON object.
    marks: special tokens that free text may contain.
    others: texts that may follow `start` in place of a call.
    """

    start: str
    begin: Callable[[str], str]
    end: str
    is_whole_text: bool = False
    parameters: ParameterSyntax | None = None
    marks: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


class ToolParser:
    """Reads tool calls in the outputs of one model.

    One object serves all requests, so it must not keep state.

    delimiters: texts that `read` must see; special tokens among them are kept in the output.
    call_syntax: for grammars that hold calls to their functions' schemas; None: not supported.
    """

    delimiters: tuple[str, ...] = ()
    call_syntax: CallSyntax | None = None

    def __init__(self, settings: str = "") -> None:
        """Create a parser.

        settings: what follows the parser's name and a colon in --tool-call-parser.
        Raises ParserError for settings that the parser does not support.
        """
        if settings:
            raise ParserError("this parser takes no settings")

    def read(self, source: Source, output: ParserOutput) -> Incremental[None]:
        """Read one output from its beginning, as a generator.

        Passes calls, and the text that is not a call, to `output`. Text that is not read when this
        returns is content too.
        """
        raise NotImplementedError

    def call_syntax_of(self, tokens: Collection[str]) -> CallSyntax | None:
        """Return the syntax of calls for a model with these of the delimiters as tokens."""
        return self.call_syntax

    def new_id(self) -> str:
        """Return a new id for a call."""
        return f"chatcmpl-tool-{secrets.token_hex(8)}"


_PARSERS: dict[str, type[ToolParser]] = {}

P = TypeVar("P", bound=type[ToolParser])


def register_tool_parser(*names: str) -> Callable[[P], P]:
    """Register the decorated parser under the names that --tool-call-parser accepts for it.

    It replaces an earlier parser of the same name.
    """

    def register(parser: P) -> P:
        _PARSERS.update(dict.fromkeys(names, parser))
        return parser

    return register


def parser_names() -> list[str]:
    """Return the names of all registered parsers."""
    return sorted(_PARSERS)


def parsers_without_settings() -> list[tuple[str, ToolParser]]:
    """Return a parser of each class that needs no settings, with its first name, as registered."""
    found: dict[type[ToolParser], tuple[str, ToolParser]] = {}
    for name, parser in _PARSERS.items():
        if parser not in found:
            with contextlib.suppress(ParserError):
                found[parser] = (name, parser())
    return list(found.values())


def make_parser(spec: str) -> ToolParser:
    """Return the parser that "NAME" or "NAME:SETTINGS" describes.

    Raises ParserError if there is none of that name, or if it rejects the settings.
    """
    name, _, settings = spec.partition(":")
    parser = _PARSERS.get(name)
    if parser is None:
        raise ParserError(f"{name[:100]!r} is not one of {', '.join(parser_names())}")
    return parser(settings)


def load_plugin(path: Path) -> None:
    """Run a file that registers parsers.

    Raises ParserError if it fails or registers none.
    """
    before = dict(_PARSERS)
    spec = importlib.util.spec_from_file_location(f"headrace_tool_parser_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ParserError(f"{path}: not a Python file")
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except Exception as error:  # a plug-in may raise anything
        raise ParserError(f"{path}: {type(error).__name__}: {error}") from error
    if before == _PARSERS:
        raise ParserError(f"{path}: registers no parser (see frontend/chat/tools/parser.py)")
