"""Compile grammars over the tokens of a model, with the same limits in every process.

A grammar comes from a client and may take any time and memory. llguidance counts its work and gives
up beyond the limits here. The work that it does not count is bounded by time and memory in the
frontends' checkers, where grammars are compiled first.
"""

from collections.abc import Sequence
from pathlib import Path

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

_MAX_REASON_CHARS = 300


def parser_limits() -> LLParserLimits:
    """Return the limits on one grammar. The fuel of a step is some milliseconds of one thread."""
    return LLParserLimits(
        max_items_in_row=2000,
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=100_000,
        step_max_items=50_000,
        max_lexer_states=50_000,
        max_grammar_size=500_000,
        verbose_errors=False,  # verbose errors repeat the whole grammar
    )


def load_tokenizer(path: Path, vocab_size: int, eos_token_ids: Sequence[int]) -> LLTokenizer:
    """Load the tokens of a `tokenizer.json` for grammars. Raises ValueError if that fails.

    vocab_size: rows of the model's embedding; no output holds the rows beyond the tokenizer's
        tokens.
    eos_token_ids: allowed where an output may end. Empty: the tokenizer's own end token.
    """
    text = path.read_text(encoding="utf-8")
    eos = list(eos_token_ids) or None
    try:
        return LLTokenizer(text, n_vocab=vocab_size, eos_token=eos)
    except ValueError:  # it may have more tokens than the model has rows
        return LLTokenizer(text, eos_token=eos)


def compile_grammar(tokenizer: LLTokenizer, text: str) -> LLMatcher:
    """Return a matcher at the beginning of the grammar.

    Raises ValueError, with the reason, if the grammar is invalid.
    """
    matcher = LLMatcher(tokenizer, text, log_level=0, limits=parser_limits())
    if matcher.is_error():
        raise ValueError(matcher_error(matcher))
    return matcher


def matcher_error(matcher: LLMatcher) -> str:
    """Return a matcher's error as one line that may be shown to a client."""
    return clean_reason(matcher.get_error())


def clean_reason(reason: str) -> str:
    """Return an error of llguidance without its own state.

    That is its first line, or the first line that begins with "error:".
    """
    lines = reason.strip().replace("<non-verbose/>", "").splitlines()
    error_lines = [line for line in lines if line.lstrip().startswith("error:")]
    line = " ".join((error_lines or lines or [""])[0].removeprefix("error:").split())
    line = line or "it cannot be followed"
    return line if len(line) <= _MAX_REASON_CHARS else line[:_MAX_REASON_CHARS] + "…"
