"""A pytest plug-in that stands in for what the reference's tests of tool parsers import of it.

Its parsers are ours, behind the methods that the tests call; its records are plain objects.
"""

import ast
import importlib.abc
import importlib.machinery
import os
import re
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

from headrace.frontend.chat.message import CollectedMessage, MessagePart
from headrace.frontend.chat.tools.available import find_parser
from headrace.frontend.chat.tools.parser import ParserError
from headrace.frontend.chat.tools.reader import ToolCallReader
from headrace.frontend.chat.tools.tool_schemas import ToolSchemas

_TOKEN = re.compile(r"<[^<>\s]{1,60}>|\[[A-Z_]+\]|\w+|\s|.", re.DOTALL)


class Record:
    """An object with the fields that it is made with; all others are None."""

    type = "function"

    def __init__(self, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(self, name, record(value) if name in ("function", "tools") else value)
        if "tool_calls" not in fields:
            self.tool_calls: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None

    def __eq__(self, other: object) -> bool:
        """Return whether all fields are equal that both have."""
        if not isinstance(other, Record):
            return False
        return all(
            vars(self)[name] == vars(other)[name] for name in vars(self).keys() & vars(other)
        )

    def __hash__(self) -> int:
        return id(self)

    @classmethod
    def model_validate(cls, value: Any) -> "Record":
        return cls(**value)

    def model_copy(self, *, update: dict[str, Any] | None = None, **_: Any) -> "Record":
        return type(self)(**{**vars(self), **(update or {})})

    def model_dump(self, **_: Any) -> dict[str, Any]:
        return vars(self)


def record(value: Any) -> Any:
    """Return a record of a dictionary, and of each dictionary in a list."""
    if isinstance(value, list):
        return [record(item) for item in value]
    return Record(**value) if isinstance(value, dict) else value


class Vocabulary(dict[str, int]):
    """Has an id for every text."""

    def __missing__(self, text: str) -> int:
        self[text] = len(self)
        return self[text]

    def __contains__(self, text: object) -> bool:
        return isinstance(text, str)

    def get(self, text: str, default: Any = None) -> Any:
        return self[text]


class Tokenizer(MagicMock):
    """Makes a token of every tag, word and other character."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.vocab = Vocabulary()
        self.get_vocab = lambda: self.vocab
        self.tokenize = _TOKEN.findall
        self.encode = lambda text, **_: [self.vocab[token] for token in _TOKEN.findall(text)]
        self.decode = self._decode
        self.from_pretrained = lambda *_, **__: self

    def _decode(self, ids: list[int], **_: Any) -> str:
        texts = {number: text for text, number in self.vocab.items()}
        return "".join(texts[one] for one in ids)

    def _get_child_mock(self, /, **options: Any) -> MagicMock:
        return MagicMock(**options)


def schemas(tools: Any) -> ToolSchemas:
    found = {}
    for tool in record(tools) or []:
        function = getattr(tool, "function", None) or tool
        found[function.name] = getattr(function, "parameters", None)
    return ToolSchemas(found)


class Parser:
    """One of our parsers, with the reference's methods."""

    name = ""

    def __init__(self, tokenizer: Any = None, tools: Any = None, **_: Any) -> None:
        try:
            self._parser = find_parser(self.name)
        except ParserError as error:
            import pytest

            pytest.skip(str(error)[:60])
        self.model_tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer()
        self.vocab = self.model_tokenizer.vocab
        self._tools = tools
        self._reader: ToolCallReader | None = None

    def _new_reader(self, request: Any) -> ToolCallReader:
        tools = self._tools or getattr(request, "tools", None)
        return ToolCallReader(self._parser, tools=schemas(tools))

    def extract_tool_calls(self, model_output: str, request: Any = None, **_: Any) -> Record:
        reader, message = self._new_reader(request), CollectedMessage()
        message.add(reader.feed(model_output))
        message.add(reader.finish())
        calls = [
            Record(
                id=call.call_id,
                type="function",
                function=Record(name=call.name, arguments=call.arguments),
            )
            for call in message.tool_calls
        ]
        return Record(tools_called=bool(calls), tool_calls=calls, content=message.content or None)

    def extract_tool_calls_streaming(
        self, previous_text: str, current_text: str, delta_text: str, *args: Any, **fields: Any
    ) -> Record | None:
        request = args[-1] if args else fields.get("request")
        if self._reader is None or (not previous_text and current_text == delta_text):
            self._reader = self._new_reader(request)
        return self._delta(self._reader.feed(delta_text))

    def finish_streaming(self) -> Record | None:
        assert self._reader is not None
        return self._delta(self._reader.finish())

    @staticmethod
    def _delta(part: MessagePart) -> Record | None:
        if not (part.content or part.tool_calls):
            return None
        calls = [
            Record(
                index=call.index,
                id=call.call_id,
                type="function" if call.name else None,
                function=Record(name=call.name, arguments=call.arguments),
            )
            for call in part.tool_calls
        ]
        return Record(content=part.content or None, tool_calls=calls)

    def adjust_request(self, request: Any) -> Any:
        return request


def registry() -> dict[str, str]:
    """Return the names of the reference's parsers, and the name of the class of each."""
    path = Path(os.environ["REFERENCE"]) / "vllm/tool_parsers/__init__.py"
    tree = ast.parse(path.read_text())
    entries: dict[str, tuple[str, str]] = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
    )
    return {name: class_name for name, (_, class_name) in entries.items()}


REGISTRY = registry()
PARSERS: dict[str, type[Parser]] = {
    class_name: type(class_name, (Parser,), {"name": name})
    for name, class_name in reversed(REGISTRY.items())
}


class Manager:
    """Finds parsers by name."""

    @staticmethod
    def get_tool_parser(name: str) -> type[Parser]:
        return PARSERS[REGISTRY[name]]


def detokenize_incrementally(
    tokenizer: Any, all_input_ids: list[int], *_: Any, **__: Any
) -> tuple[list[str], str, int, int]:
    text = tokenizer.decode(all_input_ids[-1:])
    return [text], text, 0, len(all_input_ids)


CLASSES: dict[str, Any] = {
    "detokenize_incrementally": detokenize_incrementally,
    **PARSERS,
    "ToolParser": Parser,
    "ToolParserManager": Manager,
    "get_tokenizer": lambda *_, **__: Tokenizer(),
    "AutoTokenizer": Tokenizer(),
    "TokenizerLike": Tokenizer,
}
STOOD_IN = ("vllm", "transformers", "xgrammar", "partial_json_parser")
RECORDS: dict[str, type[Record]] = {}


def constant(name: str) -> str | None:
    """Return the text that a module of the reference gives this name."""
    source = Path(os.environ["REFERENCE"]) / "vllm"
    for path in (*source.glob("parser/*.py"), *source.glob("tool_parsers/*.py")):
        match = re.search(
            rf"^{name} = f?(\"[^\"{{}}]*\"|'[^'{{}}]*')$", path.read_text(), re.MULTILINE
        )
        if match:
            return str(ast.literal_eval(match[1]))
    return None


class StandIn(ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in CLASSES:
            return CLASSES[name]
        if name.isupper() and (text := constant(name)) is not None:
            return text
        if name[0].isupper() and not name.isupper():
            return RECORDS.setdefault(name, type(name, (Record,), {}))
        return MagicMock(name=name)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in STOOD_IN:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


sys.meta_path.insert(0, Finder())
COUNTS: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))


def pytest_runtest_logreport(report: Any) -> None:
    if report.when == "call" or report.outcome != "passed":
        # Where the reference expects its own parser to fail, passing is passing.
        is_better = str(report.longrepr or "").startswith("[XPASS")
        outcome = "passed" if is_better else report.outcome
        COUNTS[Path(report.nodeid.partition("::")[0]).stem][outcome] += 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for name, outcomes in sorted(COUNTS.items()):
        parser = name.removeprefix("test_").removesuffix("_tool_parser")
        counts = ", ".join(f"{outcomes[kind]} {kind}" for kind in ("passed", "failed", "skipped"))
        terminalreporter.write_line(f"{parser:20} {counts}")
