"""All that a frontend knows of a model: its tokenizer, its chat template, its limits."""

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tokenizers import Tokenizer

from headrace.frontend.chat.templates import ChatTemplate
from headrace.frontend.text.detokenizer import (
    Detokenizer,
    ByteDetokenizer,
    WindowDetokenizer,
    after_prompt,
    join,
)
from headrace.frontend.text.token_bytes import token_bytes_of
from headrace.protocol.text import TextInfo

# Longer texts are rendered and tokenized in a thread, so that the event loop goes on meanwhile.
THREAD_FROM_CHARS = 4000
THREAD_FROM_TEXTS = 50

# Threads that tokenize long texts: each text takes a few hundred times its size in memory, and
# more threads than these would take the processor from the event loop.
_LONG_ENCODES = ThreadPoolExecutor(2, thread_name_prefix="tokenize")

# Normalizers (NFC, say) may shorten a text before it is cut into tokens, if by less than this.
_NORMALIZER_SHRINKS = 4


class ModelTokenizer:
    """The text side of one model, shared by all requests for it.

    template, tool_template: of chats, and of chats with tools; None if the model has none.
    encodable_chars: a text longer than this has too many tokens for the context, whatever it says.
    """

    def __init__(self, info: TextInfo, tokenizer: Tokenizer) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.info = info
        self.tokenizer = tokenizer
        self.special_tokens = _special_tokens(info)
        default = info.chat_template or info.chat_templates.get("default")
        for_tools = info.chat_templates.get("tool_use")
        self.template = _template(default, self.special_tokens)
        self.tool_template = _template(for_tools, self.special_tokens) or self.template
        self._pieces = token_bytes_of(tokenizer)
        added = tokenizer.get_added_tokens_decoder()
        self._added = {token.content: id_ for id_, token in added.items()}
        self._special = frozenset(id_ for id_, token in added.items() if token.special)
        longest = max((len(token) for token in tokenizer.get_vocab()), default=1)
        self.encodable_chars = longest * info.max_model_len * _NORMALIZER_SHRINKS

    @classmethod
    def load(cls, text_path: Path) -> "ModelTokenizer":
        """Read a folder that `protocol.text` describes. ValueError if it cannot be used."""
        info = TextInfo.load(text_path)
        return cls(info, Tokenizer.from_file(str(TextInfo.tokenizer_file(text_path))))

    async def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """The token ids of a text."""
        return (await self.encode_all([text], add_special_tokens))[0]

    async def encode_all(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        """The token ids of each text; long ones, or many, wait for one of a few threads."""
        if len(texts) <= THREAD_FROM_TEXTS and sum(map(len, texts)) <= THREAD_FROM_CHARS:
            return [self._encode(text, add_special_tokens) for text in texts]

        def encode() -> list[list[int]]:
            return [self._encode_long(text, add_special_tokens) for text in texts]

        return await asyncio.get_running_loop().run_in_executor(_LONG_ENCODES, encode)

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def _encode_long(self, text: str, add_special_tokens: bool) -> list[int]:
        # Of the tokenizer's methods, only those for batches let other threads run meanwhile.
        batch = self.tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return batch[0].ids

    async def decode(self, token_ids: Sequence[int], skip_special_tokens: bool) -> str:
        """The text of all the tokens, from its start."""
        detokenizer = self._detokenizer(skip_special_tokens, at_start=True)
        if len(token_ids) > THREAD_FROM_CHARS:
            return await asyncio.to_thread(join, detokenizer, token_ids)
        return join(detokenizer, token_ids)

    def detokenizer(
        self,
        skip_special_tokens: bool,
        prompt_token_ids: Sequence[int] = (),
        kept: frozenset[int] = frozenset(),
    ) -> Detokenizer:
        """For the tokens that a model adds to a prompt. kept: special ones that are not skipped."""
        return after_prompt(self._detokenizer(skip_special_tokens, kept=kept), prompt_token_ids)

    def start_detokenizer(self) -> Detokenizer:
        """For all the tokens of a text, special ones included."""
        return self._detokenizer(skip_special_tokens=False, at_start=True)

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special

    def special_ids(self, marks: Iterable[str]) -> frozenset[int]:
        """The ids of those marks that are special tokens."""
        return self._special & set(self.mark_ids(marks).values())

    def mark_ids(self, marks: Iterable[str]) -> dict[str, int]:
        """The ids of those marks that are tokens that the tokenizer makes of nothing else."""
        return {mark: self._added[mark] for mark in marks if mark in self._added}

    def _detokenizer(
        self,
        skip_special_tokens: bool,
        at_start: bool = False,
        kept: frozenset[int] = frozenset(),
    ) -> Detokenizer:
        skip = self._special if skip_special_tokens else frozenset[int]()
        if kept:
            skip -= kept
        if self._pieces is None:
            return WindowDetokenizer(self.tokenizer, skip)
        return ByteDetokenizer(self._pieces, skip, at_start)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; a part of a character, perhaps."""
        if self._pieces is not None:
            return self._pieces[token_id]
        return self.tokenizer.decode([token_id], skip_special_tokens=False).encode()


def _special_tokens(info: TextInfo) -> dict[str, str]:
    """What templates call bos_token, eos_token and so on."""
    tokens = {
        "bos_token": info.bos_token,
        "eos_token": info.eos_token,
        "pad_token": info.pad_token,
        "unk_token": info.unk_token,
    }
    return {name: token for name, token in tokens.items() if token}


def _template(source: str | None, special_tokens: dict[str, str]) -> ChatTemplate | None:
    return None if source is None else ChatTemplate(source, special_tokens)
