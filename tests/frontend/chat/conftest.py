"""The chats of reasoning models."""

from pathlib import Path
from typing import Any, Literal

import pytest

from headrace.protocol.reasoning import FORMATS, ReasoningFormat
from tests.frontend.chat.reasoning_chat import Chat, MakeChat
from tests.frontend.text.tokenizers_for_tests import CHAT_TEMPLATE


@pytest.fixture
def chat(tmp_path: Path) -> MakeChat:
    def make(
        template: str = CHAT_TEMPLATE,
        parser: ReasoningFormat | Literal["auto"] | None = FORMATS["qwen3"],
        **tokens: Any,
    ) -> Chat:
        return Chat(tmp_path, template, parser, **tokens)

    return make
