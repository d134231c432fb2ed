"""A model whose answers are written by the test, with tags for reasoning and calls of tools:

    <think>so</think>text<call name {"x": 1}>

The chat that a response comes to is noted, and stripped of the fields of tools, which this reader
stands in for.
"""

import re
from typing import Any

import pytest

from headrace.frontend.chat.chat_run import ChatRun
from headrace.frontend.chat.message import MessagePart, ToolCallPart
from headrace.frontend.chat.start_chat import start_chat as plain_start_chat
from headrace.frontend.generation.choice import Choice
from headrace.frontend.http.parsing import validate as plain_validate
from headrace.frontend.responses.execution import response_run as run
from headrace.frontend.responses.request import chat_request
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from tests.frontend.fake_pool import FakePool
from tests.frontend.text.tokenizers_for_tests import EOS

_MARK = re.compile(r"<think>(.*?)</think>|<call (\S+) (\{.*?\})>", re.DOTALL)


class Reader:
    """Tags are recognised when they are whole; a call in two parts."""

    def __init__(self) -> None:
        self._text = ""
        self._calls = 0

    def feed(self, text: str) -> MessagePart:
        self._text += text
        part = MessagePart()
        while match := _MARK.search(self._text):
            part = part.then(MessagePart(self._text[: match.start()]))
            part = part.then(self._read(match))
            self._text = self._text[match.end() :]
        if "<" in self._text:
            return part
        content, self._text = self._text, ""
        return part.then(MessagePart(content))

    def _read(self, match: re.Match[str]) -> MessagePart:
        if match[1] is not None:
            return MessagePart(reasoning=match[1])
        index, self._calls = self._calls, self._calls + 1
        half = len(match[3]) // 2
        return MessagePart(
            tool_calls=(
                ToolCallPart(index, f"call_{match[2]}_{id(self)}_{index}", match[2], ""),
                ToolCallPart(index, None, None, match[3][:half]),
                ToolCallPart(index, None, None, match[3][half:]),
            )
        )

    def finish(self) -> MessagePart:
        return MessagePart(self._text)

    def finish_reason(self, reason: str) -> str:
        return "tool_calls" if self._calls and reason == "stop" else reason


class ScriptedRun(ChatRun):
    def reasoning_tokens(self, choice: Choice) -> int:
        return 3


class Script:
    """says: the answers to one request after the other. chats: the fields of the requests."""

    def __init__(self) -> None:
        self.says: list[str] = []
        self.chats: list[dict[str, Any]] = []


def install(monkeypatch: pytest.MonkeyPatch, pool: FakePool, text: ModelTokenizer) -> Script:
    script = Script()

    def encode(said: str) -> list[int]:
        return text.backend.encode(said).ids

    def validate(model: Any, fields: dict[str, Any]) -> Any:
        script.chats.append(fields)
        stripped = {"tools", "tool_choice", "parallel_tool_calls", "response_format"}
        return plain_validate(
            model, {name: value for name, value in fields.items() if name not in stripped}
        )

    async def start_chat(*arguments: Any, **named: Any) -> ChatRun:
        started = await plain_start_chat(*arguments, **named)
        readers = [Reader() for _ in started.generation.choices]
        return ScriptedRun(
            started.model, started.request, started.prompt, started.generation, readers
        )

    said: dict[tuple[int, ...], int] = {}

    def reply(request: Any) -> list[int]:
        """The same prompt gets the same answer, as from a model."""
        answer = said.setdefault(request.prompt_token_ids, len(said))
        tokens = [*encode(script.says[answer]), EOS]
        return tokens[len(request.output_token_ids) :]

    monkeypatch.setattr(chat_request, "validate", validate)
    monkeypatch.setattr(run, "start_chat", start_chat)
    pool.reply = reply
    return script
