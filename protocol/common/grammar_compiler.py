"""Grammars over the tokens of a model: the same limits wherever one is checked or followed.

A grammar is the client's, and may take any time and memory. llguidance counts what it does and
gives up beyond the limits here; what it does not count is bounded by time and memory where grammars
are first checked: in a process of its own, beside each frontend.
"""

from collections.abc import Sequence
from pathlib import Path

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

_MAX_REASON_CHARS = 300


def parser_limits() -> LLParserLimits:
    """What one grammar may cost. A step's fuel is some milliseconds of one thread."""
    return LLParserLimits(
        max_items_in_row=2000,
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=100_000,
        step_max_items=50_000,
        max_lexer_states=50_000,
        max_grammar_size=500_000,
        verbose_errors=False,  # they would repeat the whole grammar
    )


def load_tokenizer(path: Path, vocab_size: int, eos_token_ids: Sequence[int]) -> LLTokenizer:
    """The tokens of a `tokenizer.json`, as grammars see them. ValueError if they cannot be read.

    vocab_size: rows of the model's embedding; those beyond the tokenizer's are in no text.
    eos_token_ids: allowed where a text may end. Without any, the tokenizer's own stand for the end.
    """
    text = path.read_text(encoding="utf-8")
    eos = list(eos_token_ids) or None
    try:
        return LLTokenizer(text, n_vocab=vocab_size, eos_token=eos)
    except ValueError:  # perhaps it has more tokens than the model has rows
        return LLTokenizer(text, eos_token=eos)


def compile_grammar(tokenizer: LLTokenizer, text: str) -> LLMatcher:
    """A matcher at the beginning of the grammar. ValueError, with the reason, if it is none."""
    matcher = LLMatcher(tokenizer, text, log_level=0, limits=parser_limits())
    if matcher.is_error():
        raise ValueError(matcher_error(matcher))
    return matcher


def matcher_error(matcher: LLMatcher) -> str:
    """Why a matcher is in error: one line, fit to be shown to a client."""
    return clean_reason(matcher.get_error())


def clean_reason(reason: str) -> str:
    """What an error of llguidance says, without what it adds about its own state: the first line,
    or of several the one that is marked as the error."""
    lines = reason.strip().replace("<non-verbose/>", "").splitlines()
    marked = [line for line in lines if line.lstrip().startswith("error:")]
    line = " ".join((marked or lines or [""])[0].removeprefix("error:").split())
    line = line or "it cannot be followed"
    return line if len(line) <= _MAX_REASON_CHARS else line[:_MAX_REASON_CHARS] + "…"
