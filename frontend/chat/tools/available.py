"""Find the parser that an operator has chosen."""

from pathlib import Path

# Importing these modules registers their parsers.
from headrace.frontend.chat.tools.formats import (
    deepseek,
    gemma,
    glm,
    harmony,
    kimi,
    llama,
    mistral,
    nested,
    pythonic,
    tagged,
    xml,
)
from headrace.frontend.chat.tools.parser import (
    ParserError,
    ToolParser,
    load_plugin,
    make_parser,
    parsers_without_settings,
)

__all__ = [
    "ParserError",
    "ToolParser",
    "available_parsers",
    "deepseek",
    "find_parser",
    "gemma",
    "glm",
    "harmony",
    "kimi",
    "llama",
    "mistral",
    "nested",
    "pythonic",
    "tagged",
    "xml",
]


def find_parser(spec: str, plugin: Path | None = None) -> ToolParser:
    """Return the parser for --tool-call-parser, after loading the plug-in that may register it.

    spec: "NAME" or "NAME:SETTINGS". plugin: the file of --tool-parser-plugin.
    Raises ParserError, with the reason in one line, if the parser is not available.
    """
    if plugin is not None:
        load_plugin(plugin)
    return make_parser(spec)


def available_parsers() -> list[tuple[str, ToolParser]]:
    """Return the parsers that may be found by themselves, with their names."""
    return parsers_without_settings()
