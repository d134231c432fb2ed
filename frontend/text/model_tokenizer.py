"""The tokenizer, chat templates and limits of a model: all that a frontend knows of it."""

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain
from pathlib import Path

from tokenizers import Tokenizer

from headrace.frontend.chat.templates import ChatTemplate
from headrace.frontend.text.detokenizer import (
    ByteDetokenizer,
    Detokenizer,
    WindowDetokenizer,
    feed_prompt,
    join,
)
from headrace.frontend.text.long_texts import LongTextEncoder
from headrace.frontend.text.pair_template import PairTemplate, pair_template_of
from headrace.frontend.text.token_bytes import token_bytes_of
from headrace.protocol.text import TextInfo

# Longer texts are rendered and tokenized in a thread, off the event loop.
THREAD_FROM_CHARS = 4000
THREAD_FROM_TEXTS = 50

# Threads that tokenize long texts. They are few: each text takes a few hundred times its size in
# memory, and more threads would take the processor from the event loop.
_NUM_THREADS = 2
_ENCODE_THREADS = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="tokenize")

# Normalizers such as NFC may shorten a text before it is tokenized, by less than this factor.
_MAX_NORMALIZER_SHRINKAGE = 4


class ModelTokenizer:
    """The tokenizer, chat templates and limits of one model, shared by all requests for it.

    info: special tokens, limits and recommended sampling parameters.
    backend: the tokenizer of the `tokenizers` library.
    template, tool_template: for chats, and for chats with tools; None if the model has none.
    encodable_chars: any longer text has too many tokens for the context.
    """

    def __init__(self, info: TextInfo, backend: Tokenizer) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.info = info
        self.backend = backend
        self.special_tokens = _special_tokens(info)
        default = info.chat_template or info.chat_templates.get("default")
        for_tools = info.chat_templates.get("tool_use")
        self.template = _template(default, self.special_tokens)
        self.tool_template = _template(for_tools, self.special_tokens) or self.template
        self._token_bytes = token_bytes_of(backend)
        self._long_texts = LongTextEncoder(backend)
        self._around = _around(backend)
        added = backend.get_added_tokens_decoder()
        self._added_token_ids = {token.content: id_ for id_, token in added.items()}
        self._special_ids = frozenset(id_ for id_, token in added.items() if token.special)
        max_token_chars = max((len(token) for token in backend.get_vocab()), default=1)
        self.encodable_chars = max_token_chars * info.longest_text * _MAX_NORMALIZER_SHRINKAGE

    @classmethod
    def load(cls, text_path: Path) -> "ModelTokenizer":
        """Load a text folder, as `protocol.text` describes it.

        Raises ValueError if it cannot be used.
        """
        info = TextInfo.load(text_path)
        return cls(info, Tokenizer.from_file(str(TextInfo.tokenizer_file(text_path))))

    async def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a text."""
        return (await self.encode_all([text], add_special_tokens))[0]

    async def encode_all(
        self, texts: Sequence[str], add_special_tokens: bool, scope: str | None = None
    ) -> list[list[int]]:
        """Return the token ids of each text. Long or many texts wait for one of a few threads.

        scope: of texts that may share what is remembered of them; None: nothing is.
        """
        if len(texts) <= THREAD_FROM_TEXTS and sum(map(len, texts)) <= THREAD_FROM_CHARS:
            return [self._encode(text, add_special_tokens) for text in texts]

        def encode(part: Sequence[str]) -> list[list[int]]:
            return [self._encode_long(text, add_special_tokens, scope) for text in part]

        run = asyncio.get_running_loop().run_in_executor
        size = -(-len(texts) // _NUM_THREADS)
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        found = await asyncio.gather(*(run(_ENCODE_THREADS, encode, part) for part in parts))
        return list(chain.from_iterable(found))

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def _encode_long(self, text: str, add_special_tokens: bool, scope: str | None) -> list[int]:
        if not add_special_tokens:
            return self._long_texts.encode(text, scope)
        if self._around is None:
            batch = self.backend.encode_batch_fast([text], add_special_tokens=True)
            return batch[0].ids
        before, after = self._around
        return [*before, *self._long_texts.encode(text, scope), *after]

    @property
    def special_around(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after each text; none if that cannot be told."""
        return self._around or ([], [])

    @cached_property
    def pair_template(self) -> PairTemplate:
        """How the tokens of two texts are joined for a model that reads pairs."""
        return pair_template_of(self.backend)

    async def decode(self, token_ids: Sequence[int], skip_special_tokens: bool) -> str:
        """Return the text of all the tokens, as the beginning of a text."""
        detokenizer = self._detokenizer(skip_special_tokens, at_start=True)
        if len(token_ids) > THREAD_FROM_CHARS:
            return await asyncio.to_thread(join, detokenizer, token_ids)
        return join(detokenizer, token_ids)

    def detokenizer(
        self,
        skip_special_tokens: bool,
        prompt_token_ids: Sequence[int] = (),
        visible: frozenset[int] = frozenset(),
    ) -> Detokenizer:
        """Return a detokenizer of the tokens that follow a prompt.

        visible: special tokens that are shown even where special tokens are skipped.
        """
        return feed_prompt(
            self._detokenizer(skip_special_tokens, visible=visible), prompt_token_ids
        )

    def start_detokenizer(self) -> Detokenizer:
        """Return a detokenizer of a whole text, which shows special tokens."""
        return self._detokenizer(skip_special_tokens=False, at_start=True)

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special_ids

    def special_token_ids(self, texts: Iterable[str]) -> frozenset[int]:
        """Return the ids of those texts that are special tokens."""
        return self._special_ids & set(self.added_token_ids(texts).values())

    @property
    def added_texts(self) -> list[str]:
        """The texts of added tokens."""
        return list(self._added_token_ids)

    @property
    def special_texts(self) -> list[str]:
        """The texts of special tokens."""
        return [text for text, id_ in self._added_token_ids.items() if id_ in self._special_ids]

    @property
    def end_texts(self) -> list[str]:
        """The texts of the tokens that end an output."""
        ends = self.info.eos_token_ids
        return [text for text, id_ in self._added_token_ids.items() if id_ in ends]

    def added_token_ids(self, texts: Iterable[str]) -> dict[str, int]:
        """Return the ids of those texts that are added tokens.

        The tokenizer makes an added token of its text alone, never of a part of another text.
        """
        return {
            text: self._added_token_ids[text] for text in texts if text in self._added_token_ids
        }

    def _detokenizer(
        self,
        skip_special_tokens: bool,
        at_start: bool = False,
        visible: frozenset[int] = frozenset(),
    ) -> Detokenizer:
        hidden = self._special_ids if skip_special_tokens else frozenset[int]()
        if visible:
            hidden -= visible
        if self._token_bytes is None:
            return WindowDetokenizer(self.backend, hidden)
        return ByteDetokenizer(self._token_bytes, hidden, at_start)

    def token_text(self, token_id: int) -> str:
        """Return the text of a token, with a character for each of its bytes."""
        return self.token_bytes(token_id).decode("latin-1")

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of a token; they may be a part of a character."""
        if self._token_bytes is not None:
            return self._token_bytes[token_id]
        return self.backend.decode([token_id], skip_special_tokens=False).encode()


def _around(backend: Tokenizer) -> tuple[list[int], list[int]] | None:
    """Return the special tokens that go before and after each text; None if that cannot be told."""
    text = "a"
    alone = backend.encode(text, add_special_tokens=False).ids
    whole = backend.encode(text, add_special_tokens=True).ids
    for start in range(len(whole) - len(alone) + 1):
        end = start + len(alone)
        if alone and whole[start:end] == alone:
            return whole[:start], whole[end:]
    return None


def _special_tokens(info: TextInfo) -> dict[str, str]:
    """Return the variables bos_token, eos_token and so on of chat templates."""
    tokens = {
        "bos_token": info.bos_token,
        "eos_token": info.eos_token,
        "pad_token": info.pad_token,
        "unk_token": info.unk_token,
    }
    return {name: token for name, token in tokens.items() if token}


def _template(source: str | None, special_tokens: dict[str, str]) -> ChatTemplate | None:
    return None if source is None else ChatTemplate(source, special_tokens)
