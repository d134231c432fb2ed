"""Texts of random words with given numbers of tokens, by the model's own tokenizer."""

import json
import random
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer

Kind = Literal["short", "mixed", "long"]
KINDS: tuple[Kind, ...] = ("short", "mixed", "long")
SHORT, MIXED_END = 16, 256
MIN_WORDS = 1000


def max_tokens(model: Path) -> int:
    """Return the most tokens of a text that the model takes, its special tokens included."""
    config = json.loads((model / "config.json").read_text())
    limits = [int(config["max_position_embeddings"])]
    file = model / "sentence_bert_config.json"
    if file.exists() and (own := json.loads(file.read_text()).get("max_seq_length")):
        limits.append(int(own))
    return min(limits)


class Texts:
    """Makes texts of one kind after the other; none is made twice but by chance."""

    def __init__(self, model: Path, longest: int, seed: int = 0) -> None:
        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        # Files carry settings of their training: MiniLM's cuts and pads to 128.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        self._longest, self._random = longest, random.Random(seed)
        self._words = self._whole_words()

    def _whole_words(self) -> list[str]:
        """Return words that are one token each, wherever they stand."""
        words = sorted({word.strip("▁Ġ") for word in self._tokenizer.get_vocab()})
        plain = [word for word in words if word.isascii() and word.isalpha() and len(word) > 2]
        pairs = self._tokenizer.encode_batch(
            [f"{word} {word}" for word in plain], add_special_tokens=False
        )
        whole = [word for word, pair in zip(plain, pairs, strict=True) if len(pair.ids) == 2]
        if len(whole) < MIN_WORDS:
            raise ValueError(f"the tokenizer has only {len(whole)} whole words")
        return whole

    def make(self, kind: Kind, count: int) -> list[str]:
        """Return texts: short ones, of mixed lengths (all as likely), or as long as may be."""
        return [self._text(self._length(kind)) for _ in range(count)]

    def _length(self, kind: Kind) -> int:
        if kind == "long":
            return self._longest
        last = SHORT if kind == "short" else MIXED_END
        return min(self._random.randint(SHORT, last), self._longest)

    def _text(self, tokens: int) -> str:
        return " ".join(self._random.choices(self._words, k=tokens - self._special))

    def count(self, text: str) -> int:
        """Return how many tokens a text is, special ones included."""
        return len(self._tokenizer.encode(text).ids)
