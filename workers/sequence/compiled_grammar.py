"""Compile a grammar, and estimate its memory, which llguidance does not report."""

import time

from llguidance import LLMatcher, LLTokenizer

from headrace.protocol.common.grammar_compiler import compile_grammar

# Measured on grammars made to be large (docs/benchmarks.md): memory grows with processor time of
# compiling, 90 to 250 MB for each second, and with the tokens of the outputs that match it, up
# to where its lexer has as many states as it may.
_BYTES_PER_S = 256 * 1024**2
_BYTES_PER_TOKEN = 8 * 1024
_MOST_GROWN_BYTES = 24 * 1024**2
_RENEWED_AFTER_TOKENS = 8192


class CompiledGrammar:
    """A grammar's start state, from which outputs start.

    Raises ValueError if the grammar is invalid. All its outputs share one lexer, whose states grow
    with them and are never removed.

    tokens: of all outputs so far.
    """

    __slots__ = ("__weakref__", "_compiled_bytes", "_matcher", "tokens")

    def __init__(self, tokenizer: LLTokenizer, text: str) -> None:
        started_s = time.thread_time()
        self._matcher = compile_grammar(tokenizer, text)
        spent_s = time.thread_time() - started_s
        self._compiled_bytes = len(text) + int(spent_s * _BYTES_PER_S)
        self.tokens = 0

    @property
    def bytes(self) -> int:
        """An estimate of its memory, rather too high than too low."""
        return self._compiled_bytes + min(self.tokens * _BYTES_PER_TOKEN, _MOST_GROWN_BYTES)

    @property
    def is_worn_out(self) -> bool:
        """Whether the next output should start from a new one.

        Else it could be the output for which the shared lexer has too many states.
        """
        return self.tokens >= _RENEWED_AFTER_TOKENS

    def new_matcher(self) -> LLMatcher:
        """Return a matcher for one output, at its start."""
        return self._matcher.deep_copy()
