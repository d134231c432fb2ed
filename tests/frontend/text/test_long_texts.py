"""Long texts that are tokenized in parts have the token ids that they have as wholes."""

import threading
import time
from array import array
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from headrace.frontend.text import long_texts, word_encoder
from headrace.frontend.text.added_tokens import pattern_of, splitting_texts
from headrace.frontend.text.encoded_prefixes import EncodedPrefixes
from headrace.frontend.text.long_texts import LongTextEncoder
from headrace.frontend.text.word_encoder import WordEncoder
from tests.frontend.text.tokenizers_for_tests import SPECIAL, WORDS, byte_fallback, byte_level

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")


def split_first(expression: str) -> pre_tokenizers.Sequence:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def digits() -> pre_tokenizers.Sequence:
    each = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([each, pre_tokenizers.ByteLevel(add_prefix_space=False)])


def with_words(pre_tokenizer: Any, normalizer: Any = None) -> Tokenizer:
    """A byte-level BPE that cuts texts into words in this way. Its merges go beyond words, so that
    a cut at another place makes other tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        min_frequency=1,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = [WORDS, "über 你好 👍🏽 don't WE'LL 1234 a  b\n\n c\t\td  \n e.\n\n f!!\n 0 00 12a"]
    tokenizer.train_from_iterator(lines * 4, trainer)
    return tokenizer


def metaspace(scheme: str) -> Tokenizer:
    """As newer conversions of Llama 2: the text's own beginning gets a space, or each part's."""
    tokenizer = byte_fallback()
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    return tokenizer


def word_piece() -> Tokenizer:
    pieces = ["[UNK]", "[CLS]", "[SEP]", "a", "b", "##b", "##c", "user", "hello", "##lo", ".", "!"]
    model = models.WordPiece({piece: id_ for id_, piece in enumerate(pieces)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([AddedToken("[SEP]", special=True, normalized=False)])
    return tokenizer


def unigram() -> Tokenizer:
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("a", -3.0), ("▁a", -2.5), ("ab", -2.5), ("b", -4.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True, normalized=False)])
    return tokenizer


def nested() -> Tokenizer:
    """Added tokens that are the beginning, the end and the middle of others."""
    tokenizer = byte_level()
    tokenizer.add_tokens(
        [AddedToken(each, normalized=False) for each in ["<|", "<|im", "|><", "a<"]]
    )
    return tokenizer


TOKENIZERS: dict[str, Tokenizer] = {
    "byte-level": byte_level(),
    "gpt-2's words": with_words(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "llama 3's words": with_words(split_first(LLAMA3)),
    "qwen 2's words": with_words(split_first(QWEN2), normalizers.NFC()),
    "single digits": with_words(digits()),
    "a space before": with_words(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "sentencepiece-like": byte_fallback(),
    "metaspace, first": metaspace("first"),
    "metaspace, always": metaspace("always"),
    "word pieces": word_piece(),
    "unigram": unigram(),
    "nested added tokens": nested(),
}
BY_WORDS = ["byte-level", "gpt-2's words", "llama 3's words", "qwen 2's words", "single digits"]

ASCII = [*"abAB019 .,!'-/<|>", "  ", "\n", "\n\n", "\r\n", "\t", " \n ", "\v", "\x1c", "\x00x"]
STRINGS = ["'s", "'LL", "'re", " hello", "The capital", "123", "1234567", "don't", "user"]
MARKS = [*SPECIAL, "<s>", "</s>", "[SEP]", "<|im_start", "im_end|>", "<|im_end|"]
# Among them: spaces, digits and a combining mark, and letters that fold or normalize to ASCII.
OTHERS = ["é", "e\u0301", "\u0301", "\u3000", "\u00a0", "\u2028", "\u017f", "\u212a", "²", "٣"]
OTHERS += ["—", "你好", "👍🏽"]
PIECES = st.sampled_from([*ASCII, *ASCII, *STRINGS, *MARKS, *OTHERS])
TEXTS = st.lists(PIECES, max_size=60).map("".join)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut everywhere that may be cut, and everything into words."""
    monkeypatch.setattr(long_texts, "MIN_PART_CHARS", 4)
    monkeypatch.setattr(word_encoder, "_WINDOW", 16)
    monkeypatch.setattr(word_encoder, "_REPETITIONS", 0)
    monkeypatch.setattr(word_encoder, "_MOST_BYTES", 9)


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return found


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(deadline=None, max_examples=300)
@given(text=TEXTS, added=TEXTS)
@example(text="a<|im_start|>b", added="<|im_end|>")
@example(text="é f!!\n 0", added="a long text without a cut f!!\n 0")
@example(text="x  \u3000<|im_end|>  é a", added=" \n\n\u3000b é. c")
def test_parts_make_the_ids_of_the_whole(name: str, text: str, added: str) -> None:
    tokenizer = TOKENIZERS[name]
    encoder = LongTextEncoder(tokenizer)
    assert encoder.encode(text) == ids(tokenizer, text)
    for turn in (text, text + added, text, text + added + text):
        assert encoder.encode(turn, "scope") == ids(tokenizer, turn)


@pytest.mark.parametrize("name", BY_WORDS)
@settings(deadline=None, max_examples=500)
@given(text=st.text(st.characters(max_codepoint=127), max_size=80))
def test_words_of_ascii_make_the_ids_of_the_whole(name: str, text: str) -> None:
    assert LongTextEncoder(TOKENIZERS[name]).encode(text) == ids(TOKENIZERS[name], text)


@pytest.mark.parametrize("name", BY_WORDS)
@settings(deadline=None, max_examples=300)
@given(text=st.text(max_size=80))
def test_words_of_any_text_make_the_ids_of_the_whole(name: str, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    assert LongTextEncoder(TOKENIZERS[name]).encode(text) == ids(TOKENIZERS[name], text)


def test_only_tokenizers_that_are_known_to_cut_so_are_cut_into_words() -> None:
    by_words = [name for name, each in TOKENIZERS.items() if WordEncoder.of(each) is not None]
    assert by_words == [*BY_WORDS, "nested added tokens"]
    other = with_words(split_first(r"\p{L}+|."))
    assert WordEncoder.of(other) is None
    assert LongTextEncoder(other).encode("hello, you") == ids(other, "hello, you")


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_tokens_that_depend_on_their_neighbours_are_no_cuts(flag: str) -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("<mask>", normalized=False, **{flag: True})])
    assert splitting_texts(tokenizer.get_added_tokens_decoder().values()) is None
    assert WordEncoder.of(tokenizer) is None
    for text in ("hello  <mask>  you", "x<mask>y", "hello <mask> you <|im_end|>" * 9):
        assert LongTextEncoder(tokenizer).encode(text, "") == ids(tokenizer, text)


def test_tokens_that_are_found_after_normalization_stay_within_the_parts() -> None:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.add_tokens([AddedToken("you", normalized=True)])
    encoder = LongTextEncoder(tokenizer)
    text = "hello YOU and you<|im_end|> hello You <|im_start|>YOU" * 3
    assert encoder.encode(text, "") == ids(tokenizer, text)
    assert encoder.prefixes.num_bytes > 0


# Which text of several that begin or end alike is found


@settings(deadline=None)
@given(
    st.lists(st.text("ab<|", min_size=1, max_size=5), min_size=1, max_size=8),
    st.text("ab<|", max_size=40),
)
def test_the_leftmost_and_there_the_longest_is_found(texts: list[str], text: str) -> None:
    found, position = [], 0
    while position < len(text):
        here = [each for each in texts if text.startswith(each, position)]
        found += [(position, max(here, key=len))] if here else []
        position += len(max(here, key=len)) if here else 1
    assert [(each.start(), each[0]) for each in pattern_of(texts).finditer(text)] == found


# What is remembered


def counted(encoder: LongTextEncoder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that have been tokenized, from now on."""
    parts: list[str] = []
    encode = encoder._encode_parts

    def count(asked: Any) -> list[list[int]]:
        parts.extend(asked)
        return encode(asked)

    monkeypatch.setattr(encoder, "_encode_parts", count)
    return parts


CHAT = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


def test_a_next_turn_tokenizes_only_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = LongTextEncoder(byte_level())
    encoder.encode(CHAT, "")
    parts = counted(encoder, monkeypatch)
    encoder.encode(CHAT + "you<|im_end|>\nand?", "")
    assert parts == ["<|im_start|>assistant\nyou", "<|im_end|>\nand?"]


@pytest.mark.parametrize("other", ["b", "", "a\0"])
def test_scopes_share_nothing(monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    encoder = LongTextEncoder(byte_level())
    encoder.encode(CHAT, "a")
    parts = counted(encoder, monkeypatch)
    encoder.encode(CHAT, other)
    assert "".join(parts) == CHAT


def test_a_part_is_known_only_after_the_same_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """As cached blocks are: else one could ask whether somebody has sent a certain message."""
    encoder = LongTextEncoder(byte_level())
    encoder.encode("secret" + CHAT, "")
    parts = counted(encoder, monkeypatch)
    encoder.encode("guess" + CHAT, "")
    assert "".join(parts) == "guess" + CHAT


def test_without_a_scope_nothing_is_remembered() -> None:
    encoder = LongTextEncoder(byte_level())
    encoder.encode(CHAT)
    assert encoder.prefixes.num_bytes == 0


def test_memory_is_bounded_and_what_was_not_used_goes_first() -> None:
    prefixes = EncodedPrefixes(5000)
    for number in range(100):
        prefixes.put(bytes([number]), array("I", [number] * 200))
        prefixes.get(b"\0")
        assert prefixes.num_bytes <= 5000
    held = [number for number in range(100) if prefixes.get(bytes([number])) is not None]
    assert held == [0, 97, 98, 99][-len(held) :] or held[0] == 0
    assert held[-1] == 99


def test_an_entry_that_is_too_large_is_not_held() -> None:
    prefixes = EncodedPrefixes(1000)
    prefixes.put(b"x", array("I", [1] * 1000))
    assert prefixes.get(b"x") is None
    assert prefixes.num_bytes == 0


def test_several_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_level()
    encoder = LongTextEncoder(tokenizer, cache_bytes=3000)
    texts = [f"{number} {CHAT * number}" for number in range(20)]
    expected = [ids(tokenizer, text) for text in texts]
    wrong: list[int] = []

    def work() -> None:
        for _ in range(5):
            wrong.extend(
                number
                for number, text in enumerate(texts)
                if encoder.encode(text, "") != expected[number]
            )

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Time


@pytest.mark.parametrize(
    "make",
    [
        lambda size: "a" * size,
        lambda size: " " * size,
        lambda size: "\n " * (size // 2),
        lambda size: "<|im_" * (size // 5),
        lambda size: "é" * size,
        lambda size: "aé " * (size // 3),
        lambda size: "'" * size,
        lambda size: "!\n" * (size // 2),
    ],
)
def test_cutting_takes_linear_time(
    make: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of texts that could make expressions go back again and again."""
    monkeypatch.undo()
    encoder = LongTextEncoder(byte_level())
    words = WordEncoder.of(byte_level())
    assert words is not None
    text = make(1_000_000)
    started = time.process_time()
    encoder._parts(text)
    for piece in encoder._pieces(text):
        for window in word_encoder._windows(piece.text):
            words._words(window)
    assert time.process_time() - started < 5
