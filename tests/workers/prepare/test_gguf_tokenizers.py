"""Tokenizers made of GGUF files give the tokens that llama.cpp's rules give."""

import heapq
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers

from headrace.workers.prepare.gguf_header import GGUFError
from headrace.workers.prepare.gguf_splitting import SPLITTINGS
from headrace.workers.prepare.gguf_tokenizer import write_tokenizer
from headrace.workers.prepare.gguf_vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    Vocabulary,
    end_tokens,
)

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
SPACE = "\u2581"


def byte_level(pre: str, words: list[str], merges: list[str], **values: Any) -> Vocabulary:
    tokens = ["<s>", "</s>", "<|tool|>", *BYTES, *words]
    types = [CONTROL, CONTROL, USER_DEFINED] + [NORMAL] * (len(tokens) - 3)
    special = {"bos": 0, "eos": 1}
    fields = {"options": {}, "templates": {}, **values}
    return Vocabulary("gpt2", pre, tokens, types, [], merges, special, [1], **fields)


def sentencepiece(scores: dict[str, float], **options: bool) -> Vocabulary:
    """A vocabulary with bytes and words, whose scores are given."""
    fixed = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "<tool>"]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, USER_DEFINED]
    tokens = [*fixed, *scores]
    types += [NORMAL] * len(scores)
    values = [0.0] * len(fixed) + list(scores.values())
    special = {"unk": 0, "bos": 1, "eos": 2}
    return Vocabulary("llama", "default", tokens, types, values, [], special, [2], options, {})


def made(vocabulary: Vocabulary, folder: Path) -> Any:
    write_tokenizer(vocabulary, folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def pieces(pre: str, text: str) -> list[str]:
    """Return what a text is split into, by the expressions alone."""
    from tokenizers import Regex

    steps: list[Any] = [
        pre_tokenizers.Split(Regex(each), "isolated") for each in SPLITTINGS[pre].expressions
    ]
    return [piece for piece, _ in pre_tokenizers.Sequence(steps).pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("gpt-2", "I'LL  don't 1234", ["I", "'", "LL", " ", " don", "'t", " 1234"]),
        ("llama-bpe", "I'LL  a 12345", ["I", "'LL", " ", " a", " ", "123", "45"]),
        ("qwen2", "x 123!!\n\n y", ["x", " ", "1", "2", "3", "!!\n\n", " y"]),
        ("smollm", "a 12  b", ["a", " ", "1", "2", " ", " b"]),
        ("tekken", "HelloWorld 12/\n", ["Hello", "World", " ", "1", "2", "/\n"]),
        ("gpt-4o", "HelloWorld's 1234", ["Hello", "World's", " ", "123", "4"]),
        ("deepseek-v3", "ab 1234 你好.x", ["ab", " ", "123", "4", " ", "你好", ".x"]),
        ("deepseek-coder", "ab\n12 c", ["ab", "\n", "1", "2", " c"]),
        ("falcon", "a+b 1234", ["a", "+", "b", " ", "123", "4"]),
        ("bloom", "a b, c", ["a", " b", ",", " c"]),
    ],
)
def test_texts_are_split_as_the_models_own_tokenizers_do(
    pre: str, text: str, expected: list[str]
) -> None:
    assert pieces(pre, text) == expected


def test_a_byte_level_tokenizer(tmp_path: Path) -> None:
    vocabulary = byte_level("llama-bpe", ["ab", "Ġab", "abc"], ["a b", "Ġ ab"])
    tokenizer = made(vocabulary, tmp_path)
    first, number = vocabulary.tokens[0], vocabulary.tokens.index
    found = tokenizer.encode("ab ab<|tool|> abc</s>")
    # "abc" is a token but no merges lead to it: only at a word's beginning is it taken whole
    expected = ["ab", "Ġab", "<|tool|>", "Ġab", "c", "</s>"]
    assert found.tokens == [first, *expected]
    assert tokenizer.encode("abc", add_special_tokens=False).ids == [number("abc")]
    text = "naïve \t\n\x00 你好🚀 <|tool|>"
    assert tokenizer.decode(tokenizer.encode(text).ids[1:]) == text
    assert tokenizer.decode(found.ids) == "ab ab<|tool|> abc"


def test_beginnings_and_ends_are_the_files(tmp_path: Path) -> None:
    plain = byte_level("gpt-2", ["ab"], ["a b"])
    assert made(plain, tmp_path).encode("ab").tokens == ["ab"]
    both = byte_level(
        "gpt-2", ["ab"], ["a b"], options={"add_bos_token": True, "add_eos_token": True}
    )
    tokenizer = made(both, tmp_path)
    assert tokenizer.encode("ab").tokens == ["<s>", "ab", "</s>"]
    assert tokenizer.encode("ab", add_special_tokens=False).tokens == ["ab"]
    none = byte_level("llama-bpe", ["ab"], ["a b"], options={"add_bos_token": False})
    assert made(none, tmp_path).encode("ab").tokens == ["ab"]


def test_accents_are_composed_for_qwen(tmp_path: Path) -> None:
    composed = made(byte_level("qwen2", [], ["a b"]), tmp_path)
    assert composed.encode("e\u0301").ids == composed.encode("\u00e9").ids
    as_it_is = made(byte_level("llama-bpe", [], ["a b"]), tmp_path)
    assert as_it_is.encode("e\u0301").ids != as_it_is.encode("\u00e9").ids


@pytest.mark.parametrize(
    ("vocabulary", "reason"),
    [
        (byte_level("strange", [], ["a b"]), "splits texts as 'strange', which is not known"),
        (byte_level("gpt-2", [], []), "has no merges"),
        (Vocabulary("t5", "", ["a"], [1], [0.0], [], {}, [], {}, {}), "of the kind 't5'"),
        (Vocabulary("llama", "", ["a"], [1], [], [], {}, [], {}, {}), "has no scores"),
    ],
)
def test_other_tokenizers_are_refused(tmp_path: Path, vocabulary: Vocabulary, reason: str) -> None:
    with pytest.raises(GGUFError, match=reason):
        write_tokenizer(vocabulary, tmp_path)


WORDS = ["a", "b", "c", SPACE, "ab", "bc", "abc", f"{SPACE}a", f"{SPACE}ab", "ca", "cab", "bb"]
SCORES = {word: -1.0 - n * 0.37 % 3.1 - n / 1000 for n, word in enumerate(WORDS)}


def by_scores(text: str, numbers: dict[str, int]) -> list[int]:
    """Join neighbours of the greatest score first, the leftmost of equals, as llama.cpp does."""
    symbols: list[str | None] = list(text.replace(" ", SPACE))
    queue: list[tuple[float, int, int, str]] = []

    def push(left: int, right: int) -> None:
        joined = f"{symbols[left]}{symbols[right]}"
        if joined in SCORES:
            heapq.heappush(queue, (-SCORES[joined], left, right, joined))

    for place in range(len(symbols) - 1):
        push(place, place + 1)
    while queue:
        _, left, right, joined = heapq.heappop(queue)
        if f"{symbols[left]}{symbols[right]}" != joined or symbols[right] is None:
            continue
        symbols[left], symbols[right] = joined, None
        following = [n for n in range(left + 1, len(symbols)) if symbols[n] is not None]
        before = [n for n in range(left) if symbols[n] is not None]
        if before:
            push(before[-1], left)
        if following:
            push(left, following[0])
    found = []
    for symbol in symbols:
        if symbol is not None and symbol in numbers:
            found.append(numbers[symbol])
        elif symbol is not None:
            found += [numbers[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return found


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return made(sentencepiece(SCORES, add_space_prefix=False), tmp_path_factory.mktemp("pieces"))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="abc éX\n", max_size=24))
def test_sentencepiece_joins_by_scores(joined: Any, text: str) -> None:
    numbers = joined.get_vocab()
    ids = joined.encode(text, add_special_tokens=False).ids
    assert ids == by_scores(text, numbers)
    assert joined.decode(ids) == text


def test_a_space_before_each_text(tmp_path: Path) -> None:
    tokenizer = made(sentencepiece(SCORES), tmp_path)
    found = tokenizer.encode("ab<tool>ab</s>")
    assert found.tokens == ["<s>", f"{SPACE}ab", "<tool>", f"{SPACE}ab", "</s>"]
    assert tokenizer.decode(tokenizer.encode("ab c").ids) == "ab c"


def test_gemma_4_merges_whole_lines(tmp_path: Path) -> None:
    words = {**SCORES, "\n": 0.0, "\n\n": 0.0, f"b{SPACE}": 0.0, f"b{SPACE}a": 0.0}
    merges = ["a b", "\n \n", f"b {SPACE}", f"b{SPACE} a"]
    values = sentencepiece(words)
    vocabulary = replace(values, model="gemma4", pre="", merges=merges, scores=[])
    tokenizer = made(vocabulary, tmp_path)
    found = tokenizer.encode("b ab\n\n<tool>é")
    assert found.tokens == ["<s>", f"b{SPACE}", "ab", "\n\n", "<tool>", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(found.ids) == "b ab\n\n<tool>é"


def test_special_tokens_of_phi_take_spaces(tmp_path: Path) -> None:
    """As its own tokenizer has it: the line's end after a mark of a turn is none of the text."""
    values = sentencepiece(SCORES, add_space_prefix=False)
    phi = replace(values, name="Phi-3 mini")
    found = made(phi, tmp_path).encode("a</s>\n a<s> a").ids[1:]
    assert [phi.tokens[number] for number in found] == ["a", "</s>", "a", "<s>", f"{SPACE}a"]
    assert "<0x0A>" in made(values, tmp_path).encode("a</s>\n a").tokens


def ends(words: dict[str, int], **special: int) -> list[str]:
    """Return the texts that end an answer. words: the types of tokens."""
    numbers = {word: number for number, word in enumerate(words)}
    texts = list(words)
    return [texts[number] for number in end_tokens(numbers, special, list(words.values()))]


def test_all_ends_of_a_turn_are_found() -> None:
    assert ends({"<eos>": 3, "<end_of_turn>": 3, "a": 1}, eos=0) == ["<eos>", "<end_of_turn>"]
    llama = {"a": 1, "<|end_of_text|>": 3, "<|eom_id|>": 3, "<|eot_id|>": 3}
    assert ends(llama, eos=3) == ["<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"]
    assert ends({"a": 1, "<|user|>": 3, "<|x|>": 3}, eos=0, eot=1, eom=2) == [
        "a",
        "<|user|>",
        "<|x|>",
    ]
    oss = {"<|return|>": 3, "<|end|>": 3, "<|call|>": 3}
    assert ends(oss, eos=0) == ["<|return|>", "<|call|>"]
    assert ends({"<|end|>": 3, "<|endoftext|>": 3}, eos=1) == ["<|endoftext|>", "<|end|>"]


def test_a_tag_of_html_ends_nothing() -> None:
    assert ends({"</s>": 1, "<|im_end|>": 3}, eos=1) == ["<|im_end|>"]
    assert ends({"</s>": 3, "<|im_end|>": 3}, eos=1) == ["<|im_end|>", "</s>"]


def test_templates_with_names(tmp_path: Path) -> None:
    single = byte_level("gpt-2", [], ["a b"], templates={"default": "x"})
    write_tokenizer(single, tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"] == "x"
    named = byte_level("gpt-2", [], ["a b"], templates={"default": "x", "tool_use": "y"})
    write_tokenizer(named, tmp_path)
    found = json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"]
    assert found == [{"name": "default", "template": "x"}, {"name": "tool_use", "template": "y"}]
