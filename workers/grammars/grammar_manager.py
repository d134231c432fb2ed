"""The grammars of an engine: compiled in threads of their own, each only once while it is known."""

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
_KEPT_GRAMMARS = 64
_KEPT_BYTES = 256 * 1024**2
# Of all that texts follow, run or waiting, and that are kept; then only small ones are taken.
_MOST_BYTES = 1024**3
_SMALL_BYTES = 4 * 1024**2


class GrammarManager:
    """load: reads the tokenizer, which takes a second; called with the first grammar.

    vocab_size: of the model.
    """

    def __init__(self, load: Callable[[], LLTokenizer], vocab_size: int) -> None:
        self._load = load
        self._vocab_size = vocab_size
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._kept: OrderedDict[str, CompiledGrammar] = OrderedDict()
        self._living: WeakSet[CompiledGrammar] = WeakSet()
        self._compiling = ThreadPoolExecutor(_COMPILING_THREADS, "grammar")
        self._masker: Masker | None = None

    def begin(self, request: Generate) -> "Future[GrammarState]":
        """Where the request's text, with the output that it has already, stands in its grammar."""
        return self._compiling.submit(self._begin, request)

    def start_masks(self, chunks: Iterable[Chunk]) -> None:
        """Begin to work out which tokens may follow in the texts of a step's chunks."""
        places = []
        for chunk in chunks:
            state = chunk.sequence.grammar
            if state is None:
                continue
            state.mask = None
            if chunk.samples and state.holds:
                places.append(MaskRequest(state, chunk.drafts, self._refused(chunk)))
        if not places:
            return
        if self._masker is None:
            self._masker = self._make_masker()
        self._masker.start(places)

    def _make_masker(self) -> Masker:
        assert self._tokenizer is not None  # no state is there without it
        threads = min(_MOST_MASKING_THREADS, len(os.sched_getaffinity(0)))
        return Masker(
            ThreadPoolExecutor(1, "masks"),
            LLExecutor(threads),
            self._tokenizer.vocab_size,
            self._vocab_size,
        )

    def _refused(self, chunk: Chunk) -> tuple[int, ...]:
        assert self._tokenizer is not None
        ends = chunk.sequence.request.sampling.eos_token_ids
        return tuple(set(self._tokenizer.eos_tokens) - set(ends))

    def _begin(self, request: Generate) -> GrammarState:
        assert request.grammar is not None
        state = GrammarState(self._compiled(request.grammar.text), request.grammar.after)
        for token_id in request.output_token_ids:
            state.append(token_id)
        return state

    def _compiled(self, text: str) -> CompiledGrammar:
        """The grammar of a text. ValueError if it is none, or if there is no room for it."""
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._load()
            known = self._kept.get(text)
            if known is not None and not known.is_worn_out:
                self._kept.move_to_end(text)
                return known
        compiled = CompiledGrammar(self._tokenizer, text)
        with self._lock:
            return self._take(text, compiled)

    def _take(self, text: str, compiled: CompiledGrammar) -> CompiledGrammar:
        """Keep a grammar, in the place of those that were not asked for longest. ValueError if all
        that are in use take too much memory; small ones always find room."""
        living = sum(other.bytes for other in self._living)
        if compiled.bytes > _SMALL_BYTES and living + compiled.bytes > _MOST_BYTES:
            raise ValueError("the grammars of other requests take too much memory; try again later")
        self._living.add(compiled)
        self._kept.pop(text, None)
        self._kept[text] = compiled
        kept_bytes = sum(other.bytes for other in self._kept.values())
        while len(self._kept) > _KEPT_GRAMMARS or kept_bytes > _KEPT_BYTES:
            kept_bytes -= self._kept.popitem(last=False)[1].bytes
        return compiled
