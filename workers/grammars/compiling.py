"""The grammars of an engine: compiled in threads of their own, each only once while it is known."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from llguidance import LLExecutor, LLMatcher, LLTokenizer

from protocol.grammar_compiler import compile_grammar
from protocol.to_worker import Generate
from workers.grammars.masks import Masker, Place
from workers.grammars.state import GrammarState
from workers.sequence import Chunk

_COMPILING_THREADS = 2
_MOST_MASKING_THREADS = 8
_KEPT_GRAMMARS = 64
_KEPT_BYTES = 8 * 1024 * 1024  # of their texts; compiled they are larger


class Grammars:
    """load: reads the tokenizer, which takes a second; called with the first grammar.

    vocab_size: of the model.
    """

    def __init__(self, load: Callable[[], LLTokenizer], vocab_size: int) -> None:
        self._load = load
        self._vocab_size = vocab_size
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()
        self._kept_bytes = 0
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
                places.append(Place(state, chunk.drafts, self._refused(chunk)))
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
        state = GrammarState(self._matcher(request.grammar.text), request.grammar.after)
        for token_id in request.output_token_ids:
            state.append(token_id)
        return state

    def _matcher(self, text: str) -> LLMatcher:
        """A matcher of one's own, at the beginning of the grammar. ValueError if it is none."""
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._load()
            known = self._kept.get(text)
            if known is not None:
                self._kept.move_to_end(text)
                return known.deep_copy()
        matcher = compile_grammar(self._tokenizer, text)
        self._keep(text, matcher)
        return matcher.deep_copy()

    def _keep(self, text: str, matcher: LLMatcher) -> None:
        with self._lock:
            if text not in self._kept:
                self._kept[text] = matcher
                self._kept_bytes += len(text)
            while len(self._kept) > _KEPT_GRAMMARS or self._kept_bytes > _KEPT_BYTES:
                self._kept_bytes -= len(self._kept.popitem(last=False)[0])
