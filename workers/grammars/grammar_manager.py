"""Compile an engine's grammars in threads, each only once while it is cached."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple
from weakref import WeakSet

from llguidance import LLExecutor, LLTokenizer

from headrace.protocol.common.host.limits import available_cpus
from headrace.protocol.common.reasoning_text import byte_text
from headrace.protocol.to_worker import Generate
from headrace.workers.grammars.masker import Masker, MaskRequest
from headrace.workers.sequence.compiled_grammar import CompiledGrammar
from headrace.workers.sequence.grammar_state import FreeText, GrammarState
from headrace.workers.sequence.sequence import Chunk
from headrace.workers.sequence.token_texts import TokenTexts

_COMPILING_THREADS = 2
_MOST_MASKING_THREADS = 8
_CACHED_GRAMMARS = 64
_CACHED_BYTES = 256 * 1024**2
# Of all grammars in use or cached; beyond, only small ones are accepted.
_MOST_BYTES = 1024**3
_SMALL_BYTES = 4 * 1024**2


class Prepared(NamedTuple):
    """What a request needs of its model's tokens.

    state: its grammar's. texts: of the tokens; None if no request has needed them yet.
    """

    state: GrammarState | None
    texts: TokenTexts | None


class GrammarManager:
    """The compiled grammars of an engine, and the masks of its steps.

    load: reads the tokenizer, which takes a second; called with the first grammar.
    vocab_size: of the model.
    """

    def __init__(self, load: Callable[[], LLTokenizer], vocab_size: int) -> None:
        self._load = load
        self._vocab_size = vocab_size
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._texts: TokenTexts | None = None
        self._cached: OrderedDict[str, CompiledGrammar] = OrderedDict()
        self._in_use: WeakSet[CompiledGrammar] = WeakSet()
        self._compiling_threads = ThreadPoolExecutor(_COMPILING_THREADS, "grammar")
        self._masker: Masker | None = None

    @property
    def texts(self) -> TokenTexts | None:
        """The texts of tokens; None before the first request that needed them is prepared."""
        return self._texts

    def prepare(self, request: Generate) -> "Future[Prepared]":
        """Prepare in a thread what a request needs of its model's tokens; return a future of it.

        A grammar's state is that after the output that the request has already. The future raises
        ValueError if the grammar is invalid or takes too much memory.
        """
        return self._compiling_threads.submit(self._prepare, request)

    def start_masks(self, chunks: Iterable[Chunk]) -> None:
        """Start to compute which tokens may follow the sequences of a step's chunks."""
        requests = []
        for chunk in chunks:
            state = chunk.sequence.grammar
            if state is None:
                continue
            state.mask = None
            if chunk.samples and state.is_active:
                requests.append(MaskRequest(state, chunk.drafts, self._banned_ends(chunk)))
            elif chunk.samples and (straddling := state.straddling):
                requests.append(MaskRequest(state, (), straddling, is_free=True))
        if not requests:
            return
        if self._masker is None:
            self._masker = self._make_masker()
        self._masker.start(requests)

    def _make_masker(self) -> Masker:
        assert self._tokenizer is not None  # loaded with the first grammar
        threads = min(_MOST_MASKING_THREADS, available_cpus().amount)
        return Masker(
            ThreadPoolExecutor(1, "masks"),
            LLExecutor(threads),
            self._tokenizer.vocab_size,
            self._vocab_size,
        )

    def _banned_ends(self, chunk: Chunk) -> tuple[int, ...]:
        """Return the tokenizer's end tokens that do not end this sequence."""
        assert self._tokenizer is not None
        ends = chunk.sequence.request.sampling.eos_token_ids
        return tuple(set(self._tokenizer.eos_tokens) - set(ends))

    def _prepare(self, request: Generate) -> "Prepared":
        tokenizer = self._loaded()
        grammar, state = request.grammar, None
        if request.sampling.thinking_budget is not None or (grammar is not None and grammar.after):
            with self._lock:
                self._texts = self._texts or TokenTexts.of(tokenizer)
        if grammar is not None:
            before = None
            if grammar.after and self._texts is not None:
                before = FreeText([byte_text(text) for text in grammar.after], self._texts)
                _ = before.straddling  # found here, for that takes some milliseconds at first
            state = GrammarState(self._compiled(tokenizer, grammar.text), before)
            for token_id in request.output_token_ids:
                state.append(token_id)
        return Prepared(state, self._texts)

    def _loaded(self) -> LLTokenizer:
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._load()
            return self._tokenizer

    def _compiled(self, tokenizer: LLTokenizer, text: str) -> CompiledGrammar:
        """Return a grammar from the cache, or compile it.

        Raises ValueError if it is invalid or takes too much memory.
        """
        with self._lock:
            cached = self._cached.get(text)
            if cached is not None and not cached.is_worn_out:
                self._cached.move_to_end(text)
                return cached
        compiled = CompiledGrammar(tokenizer, text)
        with self._lock:
            return self._cache(text, compiled)

    def _cache(self, text: str, compiled: CompiledGrammar) -> CompiledGrammar:
        """Add a grammar to the cache, and evict the least recently used ones if it is full.

        Raises ValueError if all that are in use take too much memory; small ones are always added.
        """
        in_use_bytes = sum(other.bytes for other in self._in_use)
        if compiled.bytes > _SMALL_BYTES and in_use_bytes + compiled.bytes > _MOST_BYTES:
            raise ValueError("the grammars of other requests take too much memory; try again later")
        self._in_use.add(compiled)
        self._cached.pop(text, None)
        self._cached[text] = compiled
        cached_bytes = sum(other.bytes for other in self._cached.values())
        while len(self._cached) > _CACHED_GRAMMARS or cached_bytes > _CACHED_BYTES:
            cached_bytes -= self._cached.popitem(last=False)[1].bytes
        return compiled
