"""Find the bytes of each token, from the decoder in tokenizer.json.

Two families cover nearly every language model. In both, a token stands for the same bytes wherever
it occurs, so that text can be made of tokens one by one:

- byte-level BPE (GPT-2): each character of a token stands for one byte;
- SentencePiece (Metaspace, byte fallback): "▁" stands for a space, "<0xE4>" for the byte E4.

Other decoders have no such table; see `headrace.frontend.text.detokenizer`.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer

ToBytes = Callable[[str], bytes]

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """The bytes of each token, computed when first needed.

    strips_first_space: whether the first space of a text belongs to the tokenizer and not to the
        text.
    """

    def __init__(self, tokenizer: Tokenizer, to_bytes: ToBytes, strips_first_space: bool) -> None:
        self._tokenizer = tokenizer
        self._to_bytes = to_bytes
        self._cache: dict[int, bytes] = {}
        self._texts: dict[int, str | None] = {}
        self.strips_first_space = strips_first_space

    def __getitem__(self, token_id: int) -> bytes:
        """Return the bytes of a token.

        An id that the tokenizer does not know has none: models may have more embeddings than
        tokens.
        """
        data = self._cache.get(token_id)
        if data is None:
            token = self._tokenizer.id_to_token(token_id)
            data = b"" if token is None else self._to_bytes(token)
            self._cache[token_id] = data
        return data

    def text_of(self, token_id: int) -> str | None:
        """Return the text of a single token; None if it holds a part of a character."""
        try:
            return self._texts[token_id]
        except KeyError:
            text = self._texts[token_id] = decode_complete(self[token_id])
            return text


def decode_complete(data: bytes) -> str | None:
    """Decode the bytes of a token; None if they hold a part of a character."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def token_bytes_of(tokenizer: Tokenizer) -> TokenBytes | None:
    """Return the bytes of a tokenizer's tokens.

    Returns None if a token's text depends on its neighbours.
    """
    decoder = json.loads(tokenizer.to_str())["decoder"]
    steps = _flatten(decoder)
    types = [step["type"] for step in steps]
    if types and set(types) <= {"ByteLevel", "Fuse"}:
        return TokenBytes(tokenizer, _byte_level, strips_first_space=False)
    if types == ["Metaspace"]:
        space = steps[0]["replacement"]
        strips_first_space = steps[0].get("prepend_scheme", "always") != "never"
        return TokenBytes(
            tokenizer, lambda token: token.replace(space, " ").encode(), strips_first_space
        )
    return _sentencepiece(tokenizer, steps)


def _sentencepiece(tokenizer: Tokenizer, steps: list[dict[str, Any]]) -> TokenBytes | None:
    """Return the bytes of a SentencePiece tokenizer's tokens; None if it is not one.

    Its decoder makes replacements, then byte fallback, and may then strip the first space.
    """
    replacements: list[tuple[str, str]] = []
    strips_first_space = False
    fused = False
    for step in steps:
        if step["type"] == "Replace" and "String" in step["pattern"] and not fused:
            replacements.append((step["pattern"]["String"], step["content"]))
        elif step["type"] == "Fuse":
            fused = True
        elif step["type"] == "Strip" and fused and _strips_one_space(step):
            strips_first_space = True
        elif step["type"] != "ByteFallback" or fused:
            return None
    if not any(step["type"] == "ByteFallback" for step in steps):
        return None

    def to_bytes(token: str) -> bytes:
        for old, new in replacements:
            token = token.replace(old, new)
        match = _BYTE_TOKEN.fullmatch(token)
        return bytes([int(match[1], 16)]) if match else token.encode()

    return TokenBytes(tokenizer, to_bytes, strips_first_space)


def _strips_one_space(step: dict[str, Any]) -> bool:
    return (step["content"], step["start"], step["stop"]) == (" ", 1, 0)


def _flatten(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [step for inner in decoder["decoders"] for step in _flatten(inner)]
    return [decoder]


def byte_alphabet() -> dict[str, int]:
    """Return GPT-2's alphabet, as bytes by character.

    Printable Latin-1 bytes stand for themselves; characters from U+0100 on stand for the other
    bytes, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return alphabet


_ALPHABET = byte_alphabet()


def _byte_level(token: str) -> bytes:
    """Return the bytes of a byte-level token.

    A token with a character outside the alphabet, such as an added token, stands for its own text.
    """
    try:
        return bytes([_ALPHABET[character] for character in token])
    except KeyError:
        return token.encode()
