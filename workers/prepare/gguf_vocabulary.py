"""Read the vocabulary of a GGUF file, and which tokens end an answer there."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrace.workers.prepare.gguf_header import ARRAY, SCALARS, STRING, GGUFError, GGUFHeader

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of tokens
SENTENCEPIECE = "llama"
_PREFIX = "tokenizer.ggml."
_TEMPLATE = "tokenizer.chat_template"
_DEFAULTS = {SENTENCEPIECE: {"bos": 1, "eos": 2, "unk": 0}}
_SPECIAL = {
    "bos": "bos", "eos": "eos", "eot": "eot", "eom": "eom", "unk": "unknown", "sep": "seperator",
    "pad": "padding", "mask": "mask", "fim_pad": "fim_pad", "fim_rep": "fim_rep",
    "fim_sep": "fim_sep",
}  # fmt: skip
# Tokens that end a turn, by their texts, as llama.cpp knows them.
_ENDS = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
    "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    "<｜end▁of▁sentence｜>", "[e~[",
}  # fmt: skip
_FILL = {
    "fim_pad": {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"},
    "fim_rep": {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"},
    "fim_sep": {"<|file_sep|>"},
}
# Of models whose calls and answers end otherwise, <|end|> only ends a message.
_NO_END = ({"<|return|>", "<|call|>"}, {"<|calls|>", "<|flush|>"}, {"<|call|>", "<|flush|>"})
_NO_S = {"<|tool_response>", "<|plamo:eos|>"}  # of models in which </s> is a word


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a file.

    model, pre: llama.cpp's kind of tokenizer, and of what splits texts before it.
    types: of tokens, see NORMAL. scores: of SentencePiece; empty if there are none.
    special: numbers of tokens by their roles: bos, eos, unk, ...
    ends: tokens that end an answer. options: true or false by llama.cpp's name.
    templates: of chats, by name. name: of the model.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float]
    merges: list[str]
    special: dict[str, int]
    ends: list[int]
    options: Mapping[str, bool]
    templates: Mapping[str, str]
    name: str = ""

    def of_type(self, *kinds: int) -> Iterable[tuple[int, str]]:
        """Yield the numbers and texts of tokens of some types."""
        for number, (token, kind) in enumerate(zip(self.tokens, self.types, strict=True)):
            if kind in kinds:
                yield number, token


def read_vocabulary(file: Path, header: GGUFHeader) -> Vocabulary:
    """Read the vocabulary of a file. Raises GGUFError if it has none."""
    metadata = header.metadata
    with file.open("rb") as stream:
        arrays = {
            name: _array(stream, header, _PREFIX + name)
            for name in ("tokens", "token_type", "scores", "merges")
        }
    tokens = [token or f"[EMPTY_{n}]" for n, token in enumerate(arrays["tokens"])]
    if not tokens or any(not isinstance(token, str) for token in tokens[:1]):
        raise GGUFError("has no vocabulary")
    types = list(arrays["token_type"]) or [NORMAL] * len(tokens)
    if len(types) < len(tokens):
        raise GGUFError("has types of fewer tokens than there are")
    model = str(metadata.get(f"{_PREFIX}model", ""))
    special = _special(metadata, model, len(tokens))
    numbers = {token: number for number, token in enumerate(tokens)}
    if len(numbers) < len(tokens):
        raise GGUFError("has a token twice")
    options = {
        key.removeprefix(_PREFIX): value
        for key, value in metadata.items()
        if key.startswith(_PREFIX) and isinstance(value, bool)
    }
    return Vocabulary(
        model=model,
        pre=str(metadata.get(f"{_PREFIX}pre", "")),
        tokens=tokens,
        types=[int(kind) for kind in types[: len(tokens)]],
        scores=[float(score) for score in arrays["scores"]],
        merges=list(arrays["merges"]),
        special=special,
        ends=end_tokens(numbers, special, types),
        options=options,
        templates=_templates(metadata),
        name=str(metadata.get("general.name", "")),
    )


def end_tokens(
    numbers: Mapping[str, int], special: Mapping[str, int], types: Sequence[int]
) -> list[int]:
    """Return the tokens that end an answer, the file's own end first.

    numbers: of tokens by their texts. special: by their roles. types: of all tokens.
    """
    texts = {text for text in _ENDS if text in numbers}
    if "</s>" in texts and types[numbers["</s>"]] == NORMAL:
        texts.remove("</s>")  # it is a tag of HTML
    found = {numbers[text] for text in texts}
    for role, names in _FILL.items():
        by_text = [numbers[name] for name in names if name in numbers]
        found |= {special[role]} if role in special else set(by_text[:1])
    found |= {special[role] for role in ("eos", "eot", "eom") if role in special}
    if any(both <= texts for both in _NO_END):
        found.discard(numbers.get("<|end|>", -1))
    if texts & _NO_S or any(text in numbers for text in _NO_S):
        found.discard(numbers.get("</s>", -1))
    first = [special["eos"]] if special.get("eos") in found else []
    return first + sorted(found - set(first))


def _special(metadata: Mapping[str, Any], model: str, count: int) -> dict[str, int]:
    found = dict(_DEFAULTS.get(model, {}))
    for role, key in _SPECIAL.items():
        number = metadata.get(f"{_PREFIX}{key}_token_id")
        if isinstance(number, int) and 0 <= number < count:
            found[role] = number
    return {role: number for role, number in found.items() if number < count}


def _templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    start = f"{_TEMPLATE}."
    found = {
        key.removeprefix(start): value
        for key, value in metadata.items()
        if key.startswith(start) and isinstance(value, str)
    }
    default = metadata.get(_TEMPLATE)
    return {"default": default, **found} if isinstance(default, str) else found


def _array(stream: Any, header: GGUFHeader, key: str) -> list[Any]:
    """Return the values of an array, or none. Raises GGUFError if it is none."""
    place = header.entries.get(key)
    if place is None:
        return []
    stream.seek(place.start)
    data = stream.read(place.stop - place.start)
    start = 8 + len(key.encode())
    kind, of, count = struct.unpack_from("<IIQ", data, start)
    start += struct.calcsize("<IIQ")
    if kind != ARRAY:
        raise GGUFError(f"has no list as {key}")
    if of == STRING:
        return _strings(data, start, count)
    values = np.frombuffer(data, np.dtype("<" + SCALARS[of].replace("?", "b")), count, start)
    return list(values.tolist())


def _strings(data: bytes, start: int, count: int) -> list[str]:
    found = []
    length_of = struct.Struct("<Q").unpack_from
    for _ in range(count):
        (length,) = length_of(data, start)
        start += 8
        found.append(data[start : start + length].decode("utf-8", errors="replace"))
        start += length
    return found
