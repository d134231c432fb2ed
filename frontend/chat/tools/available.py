"""The parsers that an operator can choose."""

from pathlib import Path

# Importing them registers them.
from headrace.frontend.chat.tools.formats import deepseek, llama, mistral, pythonic, tagged
from headrace.frontend.chat.tools.parser import ParserError, ToolParser, load_plugin, make

__all__ = [
    "ParserError",
    "ToolParser",
    "deepseek",
    "find_parser",
    "llama",
    "mistral",
    "pythonic",
    "tagged",
]


def find_parser(spec: str, plugin: Path | None = None) -> ToolParser:
    """The parser of a --tool-call-parser, after running the file of a --tool-parser-plugin, which
    may register it. ParserError says in one line why there is none."""
    if plugin is not None:
        load_plugin(plugin)
    return make(spec)
