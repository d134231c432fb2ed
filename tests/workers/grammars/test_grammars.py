"""Texts keep to their grammars, however they are run."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from tokenizers import Tokenizer

from headrace.protocol.common import grammar_compiler
from headrace.protocol.common.grammar_compiler import compile_grammar, load_tokenizer
from headrace.protocol.common.reasoning_text import MAX_MARK_CHARS, MAX_MARKS, ReasoningMarks
from headrace.protocol.config import SpeculativeConfig
from headrace.protocol.grammar import MAX_GRAMMAR_BYTES
from headrace.protocol.sampling import ThinkingBudget
from headrace.protocol.to_worker import Generate
from headrace.workers.engine.fake_runner import FakeRunner
from headrace.workers.errors import RejectedByEngine
from headrace.workers.grammars import grammar_manager, masker
from headrace.workers.grammars.grammar_manager import GrammarManager
from headrace.workers.sequence import compiled_grammar as compiled
from headrace.workers.sequence.grammar_state import GrammarState
from headrace.workers.sequence.sequence import Chunk, ChunkResult
from headrace.workers.sequence.token_texts import TokenTexts
from tests.frontend.text.tokenizers_for_tests import byte_fallback
from tests.workers.driving import Answer, request, run
from tests.workers.grammars.grammar_engines import (
    EOS,
    ROWS,
    grammar_engine,
    grammars,
    held,
    schema,
    tokens,
)

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 6}, "size": {"enum": [1, 22, 333]}},
    "required": ["city", "size"],
    "additionalProperties": False,
}
GRAMMARS = [
    'start: "Paris" | "London"',
    "start: /[ab]{3,9}c/",
    schema(CITY),
    schema({"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 6}),
    'start: word+\nword: "fox " | "dog " | "x"',
]
NGRAM = SpeculativeConfig(
    method="ngram", num_speculative_tokens=4, prompt_lookup_max=3, prompt_lookup_min=1
)


@pytest.fixture(scope="module")
def path(fake_model: Path) -> Path:
    return fake_model / "tokenizer.json"


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(path))


def requests(**params: Any) -> list[Generate]:
    return [held(str(n), text, (5, 6, n), **params) for n, text in enumerate(GRAMMARS)]


@pytest.fixture(scope="module")
def alone(path: Path) -> dict[str, Answer]:
    """What each of the requests gets in an engine of its own."""
    return {
        one.request_id: run(grammar_engine(path), [(0, one)])[one.request_id] for one in requests()
    }


def test_a_text_that_may_not_go_on_ends_without_a_token_more(
    path: Path, tokenizer: Tokenizer
) -> None:
    answer = run(grammar_engine(path), [(0, held("a", 'start: "Paris" | "London"'))])["a"]
    assert tokenizer.decode(answer.tokens) in ("Paris", "London")
    assert answer.finish_reason == "complete"
    assert EOS not in answer.tokens


def test_a_text_that_may_go_on_ends_by_eos_or_by_its_limit(
    path: Path, tokenizer: Tokenizer
) -> None:
    answer = run(grammar_engine(path), [(0, held("a", "start: /(fox )+/", max_tokens=9))])["a"]
    assert re.fullmatch("(fox )+", tokenizer.decode(answer.tokens)) or len(answer.tokens) == 9


@pytest.mark.parametrize(
    "options",
    [
        {"num_blocks": 32, "max_num_batched_tokens": 7},
        {"speculative_config": NGRAM, "clock": lambda: 0.0},
        {"late": True},
        {"max_num_seqs": 2, "enable_prefix_caching": False},
    ],
    ids=["few tokens", "speculation", "overlap", "few at once"],
)
def test_texts_are_the_same_however_they_are_run(
    path: Path, alone: dict[str, Answer], options: dict[str, Any]
) -> None:
    plain = request("plain", (5, 6, 7), max_tokens=40)
    script = [(n, one) for n, one in enumerate([*requests(), plain])]
    answers = run(grammar_engine(path, **options), script)
    for name, expected in alone.items():
        assert answers[name].tokens == expected.tokens
        assert answers[name].finish_reason == expected.finish_reason
    assert len(answers["plain"].tokens) == 40


def test_preempted_texts_go_on_as_they_were(path: Path, alone: dict[str, Answer]) -> None:
    engine = grammar_engine(path, num_blocks=32, enable_prefix_caching=False)
    others = [(0, request(f"other {n}", (9,) * 17, max_tokens=120)) for n in range(4)]
    tight = run(engine, others + [(n, one) for n, one in enumerate(requests())])
    assert engine.stats().preemptions > 0
    assert {n: tight[n].tokens for n in alone} == {n: alone[n].tokens for n in alone}


def test_replayed_texts_go_on_as_they_were(path: Path, alone: dict[str, Answer]) -> None:
    for one in requests():
        text = alone[one.request_id].tokens
        for cut in range(len(text)):
            replayed = replace(one, output_token_ids=tuple(text[:cut]))
            answer = run(grammar_engine(path), [(0, replayed)])[one.request_id]
            assert answer.tokens == text[cut:]
            assert answer.outputs[0].position == cut


def test_a_whole_text_replayed_ends_at_once(path: Path, alone: dict[str, Answer]) -> None:
    one = requests()[2]
    text = tuple(alone["2"].tokens)
    answer = run(grammar_engine(path), [(0, replace(one, output_token_ids=text))])["2"]
    assert (answer.tokens, answer.finish_reason) == ([], "complete")


def test_drafts_are_taken_where_the_grammar_allows_them(path: Path, tokenizer: Tokenizer) -> None:
    """What the prompt repeats is guessed, cut where the grammar says otherwise."""
    text = tokenizer.encode("fox fox fox fox dog x").ids
    engine = grammar_engine(path, speculative_config=NGRAM, clock=lambda: 0.0)
    one = held("a", 'start: "fox fox fox fox fox fox fox fox "', text)
    answer = run(engine, [(0, one)])["a"]
    assert tokenizer.decode(answer.tokens) == "fox " * 8
    assert engine.stats().accepted_tokens > 0
    assert len(answer.outputs) < len(answer.tokens)


def test_before_its_delimiter_a_text_is_free(path: Path, tokenizer: Tokenizer) -> None:
    """The fake's own text, of which some tokens in the middle are the delimiter."""
    free = run(grammar_engine(path), [(0, request("a", (5, 6, 7), max_tokens=12))])["a"].tokens
    delimiter = (byte_text_of(path, free[4:6]),)
    for options in ({}, {"speculative_config": NGRAM, "clock": lambda: 0.0}, {"late": True}):
        one = held("a", 'start: "Paris"', after=delimiter)
        answer = run(grammar_engine(path, **options), [(0, one)])["a"]
        assert answer.tokens[:6] == free[:6]
        assert tokenizer.decode(answer.tokens[6:]) == "Paris"
        assert answer.finish_reason == "complete"
        replayed = replace(one, output_token_ids=tuple(free[:5]))
        assert run(grammar_engine(path), [(0, replayed)])["a"].tokens == answer.tokens[5:]


def state_of(known: GrammarManager, one: Generate) -> GrammarState:
    """The state of a request's grammar, once it is compiled."""
    state = known.prepare(one).result().state
    assert state is not None
    return state


def byte_text_of(path: Path, token_ids: list[int]) -> str:
    return tokens(path).decode_bytes(token_ids).decode()


END = "</think>"


@pytest.mark.parametrize("written", [["</", "think", ">"], list(END), ["<", "/think>"]])
def test_a_delimiter_may_come_in_any_tokens(
    path: Path, tokenizer: Tokenizer, written: list[str]
) -> None:
    """The output before it is given, as in a replay; then the grammar holds."""
    ids = [token_id for part in ["dog ", *written] for token_id in tokenizer.encode(part).ids]
    one = held("a", 'start: "Paris"', after=(END,), replayed=tuple(ids))
    answer = run(grammar_engine(path), [(0, one)])["a"]
    assert tokenizer.decode(answer.tokens) == "Paris"
    assert answer.finish_reason == "complete"


@pytest.mark.parametrize(
    ("after", "follows"), [("x", False), ("\n\n", True), (" ", True), ("\n{", False)]
)
def test_no_token_goes_on_after_the_delimiter_but_with_white_space(
    after: str, follows: bool
) -> None:
    """The grammar would not see what else a token has after the end of the delimiter."""
    texts = ["<", "/t>", f"/t>{after}", f"</t>{after}", "a"]
    found = TokenTexts(texts, lambda text: []).straddling(("</t>",), "<")
    assert found == (() if follows else (2, 3))
    assert TokenTexts(texts, lambda text: []).straddling(("</t>",), "") == found[1:]


def test_tokens_that_hide_text_from_a_grammar_are_not_sampled(
    path: Path, tokenizer: Tokenizer
) -> None:
    whole = tokenizer.encode("The fox").ids
    first, second = (byte_text_of(path, [token_id]) for token_id in whole[:2])
    assert len(second.strip()) > 1, "the test needs a token of several characters"
    delimiter = first + second[: second.index(second.strip()) + 1]
    one = held("a", 'start: "Paris"', after=(delimiter,), replayed=(whole[0],), max_tokens=40)
    answer = run(grammar_engine(path, choices=[whole[1]]), [(0, one)])["a"]
    assert whole[1] not in answer.tokens[:1]


def masks_after(path: Path, text: str, tokens: list[int], **params: Any) -> tuple[set[int], bool]:
    """Tokens that may follow, and whether the text has ended."""
    one = held("a", text, **params)
    engine = grammar_engine(path)
    assert engine._gate is not None
    state = state_of(engine._gate.grammars, one)
    for token_id in tokens:
        state.append(token_id)
    seen = []

    class Spy(FakeRunner):
        def run(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
            mask = chunks[0].sequence.mask
            assert mask is not None
            seen.append({t for t in range(ROWS) if mask.rows.allows(mask.row, t)})
            return super().run(chunks)

    engine.runner.__class__ = Spy
    run(engine, [(0, replace(one, output_token_ids=tuple(tokens)))])
    return (seen[0] if seen else set()), state.is_complete


def test_eos_is_allowed_only_where_a_text_may_end(path: Path, tokenizer: Tokenizer) -> None:
    a, b = tokenizer.encode("a").ids, tokenizer.encode("b").ids
    assert EOS not in masks_after(path, "start: /a[ab]{1,3}/", a)[0]
    assert EOS in masks_after(path, "start: /a[ab]{1,3}/", [*a, *b])[0]
    ignoring = {"eos_token_ids": ()}
    assert EOS not in masks_after(path, "start: /a[ab]{1,3}/", [*a, *b], **ignoring)[0]
    assert masks_after(path, "start: /a[ab]{1,3}/", [*a, *b, *b, *b]) == (set(), True)


def test_ids_that_are_no_tokens_are_not_allowed(path: Path, tokenizer: Tokenizer) -> None:
    allowed, _ = masks_after(path, r"start: /(.|\n)*/", [])
    assert len(allowed) > 200
    assert max(allowed) < tokenizer.get_vocab_size() < ROWS
    assert not allowed & {0, 1}  # special tokens are no text


def test_a_text_whose_ends_are_ignored_goes_on_and_then_ends(
    path: Path, tokenizer: Tokenizer
) -> None:
    one = held("a", "start: /[ab]{1,30}/", eos_token_ids=(), max_tokens=60)
    answer = run(grammar_engine(path), [(0, one)])["a"]
    assert len(tokenizer.decode(answer.tokens)) == 30
    assert answer.finish_reason == "complete"


def test_min_tokens_keep_a_text_that_may_go_on(path: Path, tokenizer: Tokenizer) -> None:
    eager = grammar_engine(path, choices=[EOS])
    one = held("a", "start: /[ab]{1,30}/", min_tokens=5)
    assert len(run(eager, [(0, one)])["a"].tokens) >= 5


@pytest.mark.parametrize("text", ['start: "a" y', "nonsense", '{"grammars": [{"json_schema": 3}]}'])
def test_a_grammar_that_is_none_ends_its_request_alone(
    path: Path, alone: dict[str, Answer], text: str
) -> None:
    answers = run(grammar_engine(path), [(0, held("bad", text)), *((0, o) for o in requests())])
    assert answers["bad"].finish_reason == "rejected"
    assert answers["bad"].outputs[-1].error is not None
    assert answers["bad"].outputs[-1].error.startswith("the grammar cannot be used: ")
    assert "\n" not in answers["bad"].outputs[-1].error
    assert answers["2"].tokens == alone["2"].tokens


def test_a_replayed_text_that_the_grammar_does_not_allow_is_an_error(path: Path) -> None:
    answer = run(grammar_engine(path), [(0, held("a", 'start: "Paris"', replayed=(9, 9)))])["a"]
    assert answer.finish_reason == "rejected"
    assert "the grammar cannot be followed: " in (answer.outputs[-1].error or "")


def test_a_row_beyond_the_limits_of_a_step_ends_its_request_alone(
    path: Path, alone: dict[str, Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = LLParserLimits(step_max_items=60, verbose_errors=False)
    monkeypatch.setattr(grammar_compiler, "parser_limits", lambda: small)
    many = " | ".join(f'"{n}" "x"' for n in range(100))
    costly = f'start: "a" inner\ninner: {many}'
    script = [(0, held("costly", costly)), (0, requests()[0])]
    answers = run(grammar_engine(path), script)
    assert answers["costly"].finish_reason == "rejected"
    assert "the grammar cannot be followed" in (answers["costly"].outputs[-1].error or "")
    assert answers["0"].tokens == alone["0"].tokens


def test_a_row_that_holds_all_others_up_ends_its_request(
    path: Path, alone: dict[str, Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it does is a matter of time: here any is too much, and there none is."""
    monkeypatch.setattr(masker, "SUSPICIOUS_S", -1.0)
    answers = run(grammar_engine(path), [(0, one) for one in requests()])
    assert {n: answers[n].tokens for n in alone} == {n: alone[n].tokens for n in alone}
    monkeypatch.setattr(masker, "TOO_SLOW_S", -1.0)
    answers = run(grammar_engine(path), [(0, one) for one in requests()])
    slow = {n: a for n, a in answers.items() if a.finish_reason == "rejected"}
    assert slow
    assert all("too long" in (a.outputs[-1].error or "") for a in slow.values())
    assert all(a.tokens == alone[n].tokens[: len(a.tokens)] for n, a in slow.items())


@pytest.mark.parametrize("fault", [OSError("no such file"), BaseException("a panic")])
def test_a_grammar_whose_compilation_fails_unexpectedly_ends_its_request_alone(
    path: Path, alone: dict[str, Answer], monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    def compile_some(tokenizer: LLTokenizer, text: str) -> LLMatcher:
        if "hostile" in text:
            raise fault
        return compile_grammar(tokenizer, text)

    monkeypatch.setattr(compiled, "compile_grammar", compile_some)
    script = [(0, held("hostile", 'start: "hostile"')), (0, requests()[0])]
    answers = run(grammar_engine(path), script)
    assert answers["hostile"].finish_reason == "error"
    assert answers["hostile"].outputs[-1].error == "the grammar cannot be used"
    assert answers["0"].tokens == alone["0"].tokens


def test_a_request_can_be_aborted_while_its_grammar_is_compiled(path: Path) -> None:
    engine = grammar_engine(path)
    engine.add(held("a", GRAMMARS[0]))
    assert engine.load().waiting == 1
    engine.abort("a")
    assert not engine.has_work
    answer = run(engine, [(0, held("a", GRAMMARS[0]))])["a"]
    assert answer.finish_reason == "complete"


@pytest.mark.parametrize(
    "change",
    [
        {"text": "x" * (MAX_GRAMMAR_BYTES + 1)},
        {"after": ("x",) * (MAX_MARKS + 1)},
        {"after": ("x" * (MAX_MARK_CHARS + 1),)},
        {"after": ("",)},
    ],
)
def test_grammars_out_of_bounds_are_refused(path: Path, change: dict[str, Any]) -> None:
    one = held("a", GRAMMARS[0])
    assert one.grammar is not None
    with pytest.raises(RejectedByEngine, match="grammar"):
        grammar_engine(path).add(replace(one, grammar=replace(one.grammar, **change)))


def test_an_engine_without_a_tokenizer_refuses_grammars() -> None:
    from headrace.workers.engine.assemble import assemble_engine

    runner = FakeRunner(vocab_size=ROWS, max_model_len=64, num_blocks=8, block_size=16)
    engine = assemble_engine(runner, max_num_seqs=4, max_num_batched_tokens=64)
    with pytest.raises(RejectedByEngine, match="grammar"):
        engine.add(held("a", GRAMMARS[0]))
    assert not engine.has_work


def test_grammars_are_compiled_once_while_there_is_room(path: Path) -> None:
    known = grammars(path)
    for number in range(200):
        known.prepare(held(str(number), f'start: "{number % 150}"')).result()
    assert len(known._cached) <= 64
    first, again = (state_of(known, held(name, 'start: "149"')) for name in "ab")
    assert first._compiled is again._compiled


def taking(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Grammars that take so much memory, each."""
    monkeypatch.setattr(compiled.CompiledGrammar, "bytes", size)


def test_large_grammars_make_room_for_each_other(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = grammars(path)
    taking(monkeypatch, grammar_manager._CACHED_BYTES // 3)
    for number in range(20):
        known.prepare(held(str(number), f'start: "{number}"')).result()
    assert list(known._cached) == ['start: "17"', 'start: "18"', 'start: "19"']


def test_grammars_in_use_take_no_more_than_there_is_for_them(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = grammars(path)
    taking(monkeypatch, grammar_manager._MOST_BYTES // 5)
    in_use = [state_of(known, held(str(n), f'start: "{n}"')) for n in range(5)]
    with pytest.raises(ValueError, match="too much memory"):
        known.prepare(held("large", 'start: "large"')).result()
    assert state_of(known, held("same", 'start: "4"')).error is None
    del in_use[:2]
    assert state_of(known, held("large", 'start: "large"')).error is None
    taking(monkeypatch, grammar_manager._SMALL_BYTES)
    for number in range(100, 400):
        in_use.append(state_of(known, held("small", f'start: "{number}"')))


def test_what_texts_leave_in_a_grammar_does_not_end_later_ones(
    path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lexer has more states after each text, and may have so many."""
    monkeypatch.setattr(compiled, "_RENEWED_AFTER_TOKENS", 40)
    limits = LLParserLimits(max_lexer_states=300, verbose_errors=False)
    monkeypatch.setattr(grammar_compiler, "parser_limits", lambda: limits)
    known = grammars(path)
    for first in "abcdefghij":
        text = "|".join(f"{letter}{{1,60}}" for letter in "abcdefghij")
        state = state_of(known, held(first, f"start: /{text}/"))
        for char in first * 41:
            state.matcher.compute_bitmask()
            token_id = tokenizer.token_to_id(char)
            assert token_id is not None
            state.append(token_id)
        assert state.error is None
        assert not state.matcher.is_error()


def test_tokens_of_texts_count_as_memory(path: Path) -> None:
    known = grammars(path)
    state = state_of(known, held("a", "start: /a*/", replayed=()))
    before = state._compiled.bytes
    state.append(9)
    assert state._compiled.bytes > before


def test_sentencepiece_tokens_are_read_as_the_text_that_they_make(tmp_path: Path) -> None:
    tokenizer = byte_fallback(strip=False)
    file = tmp_path / "tokenizer.json"
    tokenizer.save(str(file))
    llama = load_tokenizer(file, tokenizer.get_vocab_size(), [2])
    matcher = compile_grammar(llama, 'start: "the " /[a-c]/ "好~"')
    found = [tokenizer.token_to_id(t) for t in ("th", "e", "▁", "a", "好", "<0x7E>")]
    ids = [token_id for token_id in found if token_id is not None]
    assert len(ids) == len(found)
    assert matcher.validate_tokens(ids) == len(ids)
    assert matcher.consume_tokens(ids)
    assert matcher.is_stopped()


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows(
    path: Path, tokenizer: Tokenizer
) -> None:
    small = load_tokenizer(path, 300, [EOS])
    assert small.vocab_size == tokenizer.get_vocab_size() > 300
    assert small.eos_tokens == [EOS]
    assert load_tokenizer(path, ROWS, []).vocab_size == ROWS


def test_a_budget_waits_for_the_texts_of_tokens(path: Path, tokenizer: Tokenizer) -> None:
    """The first such request reads them; later ones start at once."""
    ids = {text: tuple(tokenizer.encode(text).ids) for text in ("</think>", "dog </", "think>")}
    marks = ReasoningMarks((), ("</think>",))
    budget = ThinkingBudget(4, marks, (), ids["</think>"], True)
    engine = grammar_engine(path)
    params: dict[str, Any] = {"thinking_budget": budget, "max_tokens": 20}
    free = run(engine, [(0, request("a", (5, 6, 7), max_tokens=20))])["a"].tokens
    assert engine.load().waiting == 0
    for name in ("b", "c"):
        answer = run(engine, [(0, request(name, (5, 6, 7), **params))])[name]
        assert answer.tokens[:4] == free[:4]
        assert tuple(answer.tokens[4 : 4 + len(ids["</think>"])]) == ids["</think>"]
    written = (*ids["dog </"], *ids["think>"])
    replayed = request("d", (5, 6, 7), replayed=written, **{**params, "max_tokens": 40})
    answer = run(engine, [(0, replayed)])["d"]
    assert "</think>" not in tokenizer.decode(answer.tokens)
