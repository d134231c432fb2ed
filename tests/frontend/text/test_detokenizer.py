from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from headrace.frontend.text.detokenizer import (
    CONTEXT_TOKENS,
    ByteDetokenizer,
    WindowDetokenizer,
    feed_prompt,
    join,
)
from headrace.frontend.text.token_bytes import TokenBytes, token_bytes_of
from tests.frontend.text.tokenizers_for_tests import byte_fallback, byte_level

BYTE_LEVEL = byte_level()
FALLBACK = byte_fallback()
NO_STRIP = byte_fallback(strip=False)
NONE: frozenset[int] = frozenset()
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def pieces(tokenizer: Tokenizer) -> TokenBytes:
    found = token_bytes_of(tokenizer)
    assert found is not None
    return found


def ids(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, tokenizer.get_vocab_size() - 1), max_size=30)


@given(ids(BYTE_LEVEL), st.booleans())
def test_any_byte_level_tokens_equal_the_tokenizers_own_text(tokens: list[int], skip: bool) -> None:
    special = frozenset({0, 1, 2}) if skip else NONE
    text = join(ByteDetokenizer(pieces(BYTE_LEVEL), special), tokens)
    assert text == BYTE_LEVEL.decode(tokens, skip_special_tokens=skip)


@given(TEXTS)
def test_texts_come_back_from_byte_level_tokens(text: str) -> None:
    tokens = BYTE_LEVEL.encode(text, add_special_tokens=False).ids
    assert join(ByteDetokenizer(pieces(BYTE_LEVEL), NONE), tokens) == text


@given(TEXTS)
def test_texts_come_back_from_byte_fallback_tokens(text: str) -> None:
    tokens = FALLBACK.encode(text, add_special_tokens=False).ids
    detokenizer = ByteDetokenizer(pieces(FALLBACK), NONE, at_start=True)
    assert join(detokenizer, tokens) == FALLBACK.decode(tokens) == text.replace("▁", " ")


@given(ids(FALLBACK), st.sampled_from([FALLBACK, NO_STRIP]))
def test_byte_fallback_tokens_without_byte_tokens_equal_the_tokenizers_own(
    tokens: list[int], tokenizer: Tokenizer
) -> None:
    tokens = [token for token in tokens if not 3 <= token < 259]
    detokenizer = ByteDetokenizer(pieces(tokenizer), NONE, at_start=True)
    assert join(detokenizer, tokens) == tokenizer.decode(tokens, skip_special_tokens=False)


@given(st.lists(st.integers(0, 255), max_size=12))
def test_byte_tokens_decode_as_their_bytes(data: list[int]) -> None:
    tokens = [byte + 3 for byte in data]
    text = join(ByteDetokenizer(pieces(FALLBACK), NONE), tokens)
    assert text == bytes(data).decode("utf-8", "replace")


def test_a_character_is_held_back_until_it_is_whole() -> None:
    detokenizer = ByteDetokenizer(pieces(FALLBACK), NONE)
    fed = [detokenizer.feed(byte + 3) for byte in "👍é".encode()]
    assert fed == ["", "", "", "👍", "", "é"]
    assert detokenizer.flush() == ""


def test_an_unfinished_character_is_flushed_as_a_replacement() -> None:
    detokenizer = ByteDetokenizer(pieces(FALLBACK), NONE)
    assert detokenizer.feed(0xE4 + 3) == ""
    assert detokenizer.flush() == "\ufffd"


def test_endless_invalid_bytes_are_shown_as_they_come() -> None:
    detokenizer = ByteDetokenizer(pieces(FALLBACK), NONE)
    fed = [detokenizer.feed(0xFF + 3) for _ in range(1000)]
    assert fed == ["\ufffd"] * 1000


def test_the_first_space_is_the_texts_own_after_a_prompt() -> None:
    tokens = FALLBACK.encode("the", add_special_tokens=False).ids
    after = feed_prompt(ByteDetokenizer(pieces(FALLBACK), NONE), tokens)
    assert join(after, tokens) == " the"
    assert join(ByteDetokenizer(pieces(FALLBACK), NONE, at_start=True), tokens) == "the"


def test_a_character_may_begin_in_the_prompt() -> None:
    first, *rest = [byte + 3 for byte in "好".encode()]
    detokenizer = feed_prompt(ByteDetokenizer(pieces(FALLBACK), NONE), [first])
    assert join(detokenizer, rest) == "好"


def test_ids_without_a_token_leave_no_text() -> None:
    assert join(ByteDetokenizer(pieces(BYTE_LEVEL), NONE), [100_000]) == ""


def test_metaspace_and_unknown_decoders_are_told_apart() -> None:
    tokenizer = Tokenizer(models.BPE(vocab={"▁a": 0, "b": 1}, merges=[]))
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    assert join(ByteDetokenizer(pieces(tokenizer), NONE, at_start=True), [0, 1, 0]) == "ab a"
    tokenizer.decoder = decoders.WordPiece()
    assert token_bytes_of(tokenizer) is None


@given(ids(BYTE_LEVEL))
def test_the_window_finds_the_same_text_as_the_pieces(tokens: list[int]) -> None:
    text = "".join(BYTE_LEVEL.decode([token], skip_special_tokens=False) for token in tokens)
    if "\ufffd" in text:  # broken characters may be split otherwise
        return
    assert join(WindowDetokenizer(BYTE_LEVEL, NONE), tokens) == text


def test_the_window_stays_short_whatever_comes() -> None:
    detokenizer = WindowDetokenizer(FALLBACK, NONE)
    text = "".join(detokenizer.feed(0xFF + 3) for _ in range(100)) + detokenizer.flush()
    assert text == "\ufffd" * 100
    assert len(detokenizer._context) <= CONTEXT_TOKENS
