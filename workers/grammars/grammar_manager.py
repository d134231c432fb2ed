"""Compile an engine's grammars in threads, each only once while it is cached."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from weakref import WeakSet

from llguidance import LLExecutor, LLTokenizer

from headrace.protocol.to_worker import Generate
from headrace.workers.grammars.masker import Masker, MaskRequest
from headrace.workers.sequence.compiled_grammar import CompiledGrammar
from headrace.workers.sequence.grammar_state import GrammarState
from headrace.workers.sequence.sequence import Chunk

_COMPILING_THREADS = 2
_MOST_MASKING_THREADS = 8
_CACHED_GRAMMARS = 64
_CACHED_BYTES = 256 * 1024**2
# Of all grammars in use or cached; beyond, only small ones are accepted.
_MOST_BYTES = 1024**3
_SMALL_BYTES = 4 * 1024**2


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
        self._cached: OrderedDict[str, CompiledGrammar] = OrderedDict()
        self._in_use: WeakSet[CompiledGrammar] = WeakSet()
        self._compiling_threads = ThreadPoolExecutor(_COMPILING_THREADS, "grammar")
        self._masker: Masker | None = None

    def compile(self, request: Generate) -> "Future[GrammarState]":
        """Compile a request's grammar in a thread; return a future of its state.

        The state is that after the output that the request has already. The future raises
        ValueError if the grammar is invalid or takes too much memory.
        """
        return self._compiling_threads.submit(self._start, request)

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
        if not requests:
            return
        if self._masker is None:
            self._masker = self._make_masker()
        self._masker.start(requests)

    def _make_masker(self) -> Masker:
        assert self._tokenizer is not None  # loaded with the first grammar
        threads = min(_MOST_MASKING_THREADS, len(os.sched_getaffinity(0)))
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

    def _start(self, request: Generate) -> GrammarState:
        assert request.grammar is not None
        state = GrammarState(self._compiled(request.grammar.text), request.grammar.after)
        for token_id in request.output_token_ids:
            state.append(token_id)
        return state

    def _compiled(self, text: str) -> CompiledGrammar:
        """Return a grammar from the cache, or compile it.

        Raises ValueError if it is invalid or takes too much memory.
        """
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._load()
            cached = self._cached.get(text)
            if cached is not None and not cached.is_worn_out:
                self._cached.move_to_end(text)
                return cached
        compiled = CompiledGrammar(self._tokenizer, text)
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
