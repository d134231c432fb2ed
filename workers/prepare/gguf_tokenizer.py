"""Write a tokenizer for the vocabulary of a GGUF file, which gives the tokens that llama.cpp gives.

Byte-level tokenizers have their merges in the file. SentencePiece's join at each step the two
neighbours whose token has the greatest score, which merges in the order of the scores do, too.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headrace.workers.prepare.gguf_header import GGUFError
from headrace.workers.prepare.gguf_splitting import SPLITTINGS, Splitting
from headrace.workers.prepare.gguf_vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    SENTENCEPIECE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
)

_BYTE_LEVEL = "gpt2"
_WHOLE_LINES = "gemma4"
UNLIMITED = 10**30  # what transformers takes for no limit of a text's tokens
_SPACE = "\u2581"  # SentencePiece's
_MAX_MERGED = 64  # characters of a token that is put together
# Models whose special tokens take spaces behind them, as files do not say; and those that do not.
_STRIPPING, _NOT_STRIPPING = ("phi-3", "phi3"), {"<unk>", "<s>", "<|endoftext|>"}
_ROLES = ("bos", "eos", "unk", "pad", "sep", "mask")
_PROBE = "Hello, World!  12 34567\n\n\tnaïve 你好 🚀 a_b.c(d)"


def write_tokenizer(vocabulary: Vocabulary, output: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json.

    Raises GGUFError if the tokenizer is none that is read, or gives back other texts than it got.
    """
    tokenizer, splitting = _make(vocabulary)
    _add_special(tokenizer, vocabulary)
    _set_ends(tokenizer, vocabulary, splitting)
    _check(tokenizer, vocabulary)
    tokenizer.save(str(output / "tokenizer.json"), pretty=False)
    special = {
        f"{role}_token": vocabulary.tokens[vocabulary.special[role]]
        for role in _ROLES
        if role in vocabulary.special
    }
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": UNLIMITED,
        **special,
    }
    templates = vocabulary.templates
    if list(templates) == ["default"]:
        config["chat_template"] = templates["default"]
    elif templates:
        config["chat_template"] = [
            {"name": name, "template": text} for name, text in templates.items()
        ]
    (output / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def _make(vocabulary: Vocabulary) -> tuple[Any, Splitting]:
    """Return a tokenizer without special tokens, and how it splits texts."""
    if vocabulary.model == SENTENCEPIECE:
        return _sentencepiece(vocabulary), Splitting((), adds_bos=True)
    if _WHOLE_LINES in (vocabulary.model, vocabulary.pre):
        return _by_lines(vocabulary), Splitting((), adds_bos=True)
    if vocabulary.model != _BYTE_LEVEL:
        raise GGUFError(f"has a tokenizer of the kind {vocabulary.model!r}, which is not read")
    splitting = SPLITTINGS.get(vocabulary.pre or "default")
    if splitting is None:
        raise GGUFError(f"splits texts as {vocabulary.pre!r}, which is not known")
    if not vocabulary.merges:
        raise GGUFError("has no merges for its tokenizer")
    return _byte_level(vocabulary, splitting), splitting


def _byte_level(vocabulary: Vocabulary, splitting: Splitting) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    numbers = {token: number for number, token in enumerate(vocabulary.tokens)}
    known = _known(vocabulary, numbers)
    model = models.BPE(vocab=numbers, merges=known, ignore_merges=splitting.whole_words)
    tokenizer = Tokenizer(model)
    if splitting.composes:
        tokenizer.normalizer = normalizers.NFC()
    splits: list[Any] = [
        pre_tokenizers.Split(Regex(each), "isolated") for each in splitting.expressions
    ]
    splits.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _by_lines(vocabulary: Vocabulary) -> Any:
    """Return Gemma 4's tokenizer: SentencePiece's spaces and bytes, but merges as in the file."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    numbers = {token: number for number, token in enumerate(vocabulary.tokens)}
    if not vocabulary.merges:
        raise GGUFError("has no merges for its tokenizer")
    tokenizer = Tokenizer(
        models.BPE(vocab=numbers, merges=_known(vocabulary, numbers), **_fallback(vocabulary))
    )
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("\n+"), "isolated")
    tokenizer.decoder = _with_spaces(strips=False)
    return tokenizer


def _known(vocabulary: Vocabulary, numbers: dict[str, int]) -> list[tuple[str, str]]:
    """Return the file's merges of tokens into a token."""
    pairs = map(_pair, vocabulary.merges)
    return [
        (left, right)
        for left, right in pairs
        if left in numbers and right in numbers and left + right in numbers
    ]


def _fallback(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return what becomes of characters without a token: bytes, or the unknown token."""
    unknown = vocabulary.special.get("unk")
    return {
        "unk_token": None if unknown is None else vocabulary.tokens[unknown],
        "fuse_unk": True,
        "byte_fallback": any(True for _ in vocabulary.of_type(BYTE)),
    }


def _with_spaces(strips: bool) -> Any:
    """Return what turns tokens with SentencePiece's spaces into a text. strips: its first space."""
    from tokenizers import decoders

    steps: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, *([decoders.Strip(content=" ", left=1)] if strips else [])])


def _pair(merge: str) -> tuple[str, str]:
    place = merge.find(" ", 1)
    return (merge, "") if place < 0 else (merge[:place], merge[place + 1 :])


def _sentencepiece(vocabulary: Vocabulary) -> Any:
    from tokenizers import Tokenizer, models, normalizers

    if len(vocabulary.scores) < len(vocabulary.tokens):
        raise GGUFError("has no scores for its tokenizer")
    numbers = {token: number for number, token in enumerate(vocabulary.tokens)}
    merges = list(_merges(vocabulary, numbers))
    tokenizer = Tokenizer(models.BPE(vocab=numbers, merges=merges, **_fallback(vocabulary)))
    prefix = vocabulary.options.get("add_space_prefix", True)
    steps: list[Any] = [normalizers.Prepend(_SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = _with_spaces(strips=prefix)
    return tokenizer


def _merges(vocabulary: Vocabulary, numbers: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Yield the pairs whose token is one, those of greater scores first."""
    scores = vocabulary.scores
    found = []
    for number, token in vocabulary.of_type(NORMAL, UNUSED):
        if 1 < len(token) <= _MAX_MERGED:
            for place in range(1, len(token)):
                left, right = token[:place], token[place:]
                if left in numbers and right in numbers:
                    found.append((-scores[number], number, left, right))
    found.sort(key=lambda each: each[:2])
    for _, _, left, right in found:
        yield left, right


def _add_special(tokenizer: Any, vocabulary: Vocabulary) -> None:
    """Have special tokens found in texts as they are."""
    from tokenizers import AddedToken

    ends = set(vocabulary.ends)
    strips = any(name in vocabulary.name.lower() for name in _STRIPPING)
    special: list[Any] = []
    others: list[Any] = []
    for number, token in vocabulary.of_type(CONTROL, UNKNOWN, USER_DEFINED):
        is_special = vocabulary.types[number] != USER_DEFINED or number in ends
        rstrip = strips and token not in _NOT_STRIPPING
        added = AddedToken(token, normalized=False, special=is_special, rstrip=rstrip)
        (special if is_special else others).append(added)
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(others)


def _set_ends(tokenizer: Any, vocabulary: Vocabulary, splitting: Splitting) -> None:
    """Have texts begin and end with special tokens if the file says so.

    The template is set as tokenizer.json has it, where tokens may have any text.
    """
    from tokenizers import Tokenizer, models

    options = vocabulary.options
    wanted = {
        "bos": options.get("add_bos_token", splitting.adds_bos),
        "eos": options.get("add_eos_token", False),
    }
    numbers = {
        role: vocabulary.special.get(role) for role, is_wanted in wanted.items() if is_wanted
    }
    tokens = {
        role: vocabulary.tokens[number] for role, number in numbers.items() if number is not None
    }
    if not tokens:
        return
    state = json.loads(Tokenizer(models.BPE()).to_str())  # small, and read at once
    state["post_processor"] = {
        "type": "TemplateProcessing",
        "single": _template(tokens, "A", 0),
        "pair": _template(tokens, "A", 0) + _template(tokens, "B", 1),
        "special_tokens": {
            token: {"id": token, "ids": [numbers[role]], "tokens": [token]}
            for role, token in tokens.items()
        },
    }
    tokenizer.post_processor = Tokenizer.from_str(json.dumps(state)).post_processor


def _template(tokens: dict[str, str], text: str, kind: int) -> list[dict[str, Any]]:
    """Return what surrounds a text, as tokenizer.json has it."""
    ends = {
        role: {"SpecialToken": {"id": token, "type_id": kind}} for role, token in tokens.items()
    }
    parts = [ends.get("bos"), {"Sequence": {"id": text, "type_id": kind}}, ends.get("eos")]
    return [part for part in parts if part is not None]


def _check(tokenizer: Any, vocabulary: Vocabulary) -> None:
    """Check that each token has the file's number, and that a text comes back as it was."""
    for number, token in enumerate(vocabulary.tokens):
        if tokenizer.token_to_id(token) != number:
            raise GGUFError(f"has the token {token!r}, which its tokenizer does not give")
    encoded = tokenizer.encode(_PROBE, add_special_tokens=False)
    unknown = vocabulary.special.get("unk")
    if unknown is None or unknown not in encoded.ids:
        text = tokenizer.decode(encoded.ids, skip_special_tokens=False)
        if text != _PROBE and _is_whole(vocabulary):
            raise GGUFError(f"has a tokenizer that makes {text!r} of {_PROBE!r}")


def _is_whole(vocabulary: Vocabulary) -> bool:
    """Return whether the vocabulary has tokens for all bytes."""
    if vocabulary.model in (SENTENCEPIECE, _WHOLE_LINES):
        return len(list(vocabulary.of_type(BYTE))) == 256
    from tokenizers import pre_tokenizers

    return set(pre_tokenizers.ByteLevel.alphabet()) <= set(vocabulary.tokens)
