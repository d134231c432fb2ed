"""A chat with a model whose answers and reasoning format a test chooses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from headrace.frontend.app import create_app
from headrace.frontend.metrics import Metrics
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.config import GroupConfig, PoolConfig, ServingOptions
from headrace.protocol.reasoning import FORMATS, ReasoningFormat
from headrace.protocol.text import TextInfo
from tests.frontend.fake_pool import FakePool
from tests.frontend.structured.shared_checkers import new_grammars
from tests.frontend.text.tokenizers_for_tests import CHAT_TEMPLATE, EOS, SPECIAL, byte_level

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
THOUGHT, ANSWER = "\nHello world. The capital?\n", "\n\nParis is the answer."
WHOLE = f"<think>{THOUGHT}</think>{ANSWER}"
# As Qwen3's: thinking can be switched off, and the template itself then closes the block.
SWITCHED = CHAT_TEMPLATE + (
    "{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
)
OPENED = CHAT_TEMPLATE + "{{ '<think>\n' }}"
EFFORT = CHAT_TEMPLATE + "{{ '[' ~ reasoning_effort ~ ' ' ~ enable_thinking ~ ']' }}"
TAGS = ReasoningFormat(start="<think>", end="</think>")
# Formats that differ in what is assumed, and in what ends reasoning.
THINKING = [FORMATS["deepseek_r1"], FORMATS["qwen3"], FORMATS["deepseek_v3"], TAGS]


class Chat:
    """An application that serves one model, whose texts are `reply`."""

    def __init__(
        self,
        tmp_path: Path,
        template: str,
        parser: ReasoningFormat | Literal["auto"] | None,
        **tokens: Any,
    ) -> None:
        backend = byte_level()
        backend.add_tokens(tokens.get("added", []))
        backend.add_special_tokens(tokens.get("special", []))
        info = TextInfo(
            max_model_len=2048,
            vocab_size=backend.get_vocab_size(),
            eos_token_ids=(EOS,),
            chat_template=template,
            added_tokens=dict(enumerate(SPECIAL)),
        )
        info.save(tmp_path)
        backend.save(str(TextInfo.tokenizer_file(tmp_path)))
        self.text = ModelTokenizer(info, backend)
        self.pool = FakePool(lambda request: [*self.ids(self.reply), EOS])
        self.reply = WHOLE
        group = GroupConfig(
            name="main",
            model="smol",
            model_path=Path("/smol"),
            text_path=tmp_path,
            served_names=("smol",),
            reasoning_parser=parser,
            serving=ServingOptions(tool_call_parser=tokens.get("tool_call_parser", "none")),
        )
        config = PoolConfig(run_dir=tmp_path, groups=(group,))
        app = create_app(config, {"main": self.text}, self.pool, Metrics(config), new_grammars())
        self.client = app.test_client()

    def ids(self, text: str) -> list[int]:
        return self.text.backend.encode(text, add_special_tokens=False).ids

    async def post(self, path: str = "/v1/chat/completions", **fields: Any) -> tuple[int, Any]:
        """The status, and the body or the events."""
        body = {"messages": QUESTION, **fields} if "chat" in path else fields
        response = await self.client.post(path, json=body)
        if fields.get("stream") and response.status_code == 200:
            data = await response.get_data(as_text=True)
            lines = data.strip().split("\n\n")[:-1]
            return 200, [json.loads(line.removeprefix("data: ")) for line in lines]
        return response.status_code, await response.get_json()

    async def message(self, **fields: Any) -> tuple[str | None, str | None]:
        """(reasoning, content) of an answer; a stream must say the same."""
        status, body = await self.post(**fields)
        assert status == 200, body
        whole = body["choices"][0]["message"]
        _, events = await self.post(stream=True, **fields)
        deltas = [event["choices"][0]["delta"] for event in events]
        parts = [
            "".join(delta.get(key, "") for delta in deltas) for key in ("reasoning", "content")
        ]
        assert parts == [whole["reasoning"] or "", whole["content"] or ""]
        assert all(set(delta) <= {"role", "content", "reasoning"} for delta in deltas)
        assert not any("" in delta.values() for delta in deltas[1:-1])
        return whole["reasoning"], whole["content"]


MakeChat = Callable[..., Chat]
