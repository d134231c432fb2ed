"""A compiled grammar, and about how much memory it takes, which llguidance does not tell."""

import time

from llguidance import LLMatcher, LLTokenizer

from headrace.protocol.common.grammar_compiler import compile_grammar

# Measured on grammars made to be large (docs/benchmarks.md): memory grows with processor time of
# compiling, 90 to 250 MB for each second, and with the tokens of the texts that follow it, up to
# where its lexer has as many states as it may.
_BYTES_PER_S = 256 * 1024**2
_BYTES_PER_TOKEN = 8 * 1024
_MOST_GROWN_BYTES = 24 * 1024**2
_RENEWED_AFTER_TOKENS = 8192


class CompiledGrammar:
    """A grammar's beginning, from which texts start. ValueError if it is none.

    All its texts share one lexer, whose states become more with what they say, and never fewer.
    tokens: of all texts so far.
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
        """About how much memory it takes, rather too much than too little."""
        return self._compiled_bytes + min(self.tokens * _BYTES_PER_TOKEN, _MOST_GROWN_BYTES)

    @property
    def is_worn_out(self) -> bool:
        """Whether further texts had better start from a new one: each could be the one for which
        the lexer that they share has too many states."""
        return self.tokens >= _RENEWED_AFTER_TOKENS

    def matcher(self) -> LLMatcher:
        """For one text, at its beginning."""
        return self._matcher.deep_copy()
