"""Compute in threads which tokens may come next, while the model runs."""

import ctypes
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from llguidance import LLExecutor

from headrace.protocol.common.grammar_compiler import matcher_error
from headrace.workers.sequence.grammar_state import GrammarState
from headrace.workers.sequence.mask import Mask, MaskRows

_EVERYTHING = 0xFF
SUSPICIOUS_S = 0.1  # of a step's masks; then each sequence's is timed in the next step
TOO_SLOW_S = 0.1  # of one thread, for one mask


@dataclass(frozen=True, slots=True)
class MaskRequest:
    """A sequence whose next token must match its grammar, with the drafts that follow it.

    banned: ids that may not come next, such as those that end other sequences.
    is_free: whether its grammar does not apply yet.
    """

    state: GrammarState
    drafts: tuple[int, ...]
    banned: tuple[int, ...]
    is_free: bool = False


class Masker:
    """Computes the masks of steps.

    threads: where masks are computed. executor: llguidance's own threads, which share the work.
    tokenizer_size: ids that a mask has bits for. vocab_size: ids below it are tokens of the model.
    """

    def __init__(
        self, threads: Executor, executor: LLExecutor, tokenizer_size: int, vocab_size: int
    ) -> None:
        self._threads = threads
        self._executor = executor
        self._row_bytes = -(-tokenizer_size // 32) * 4
        self._vocab_size = vocab_size
        self._is_suspicious = False

    def start(self, requests: Sequence[MaskRequest]) -> None:
        """Start to compute the masks of a step: one for each request, and one for each draft."""
        rows = MaskRows(sum(1 + len(request.drafts) for request in requests), self._row_bytes)
        first = 0
        for request in requests:
            request.state.mask = Mask(rows, first)
            first += 1 + len(request.drafts)
        rows.fill(self._threads, lambda bits: self._compute(requests, bits))

    def _compute(self, requests: Sequence[MaskRequest], bits: bytearray) -> None:
        if self._is_suspicious:
            for request in requests:
                if not request.is_free:
                    _end_if_slow(request.state)
        started_s = time.monotonic()
        plain, drafted, first = [], [], 0
        for request in requests:
            if request.state.error is not None or request.is_free:
                pass
            elif request.drafts:
                drafted.append((request.state.matcher, first, list(request.drafts)))
            else:
                plain.append((request.state.matcher, first))
            first += 1 + len(request.drafts)
        address = ctypes.addressof((ctypes.c_char * len(bits)).from_buffer(bits))
        sizes = (address, self._row_bytes, first)
        if plain:
            self._executor.unsafe_compute_mask_ptr(plain, *sizes)
        if drafted:
            self._executor.unsafe_compute_mask_ptr_with_draft_token(drafted, *sizes)
        self._is_suspicious = time.monotonic() - started_s > SUSPICIOUS_S
        first = 0
        for request in requests:
            self._finish(request, bits, first)
            first += 1 + len(request.drafts)

    def _finish(self, request: MaskRequest, bits: bytearray, first: int) -> None:
        """Record why a sequence cannot continue, if it cannot.

        A mask that allows nothing is made to allow all, so that a token can be sampled, which is
        then dropped.
        """
        state = request.state
        if request.is_free:
            start = first * self._row_bytes
            bits[start : start + self._row_bytes] = bytes([_EVERYTHING]) * self._row_bytes
        elif state.error is None and state.matcher.is_error():
            state.error = f"the grammar cannot be followed: {matcher_error(state.matcher)}"
        for row in range(first, first + 1 + len(request.drafts)):
            start = row * self._row_bytes
            for token_id in request.banned:
                bits[start + token_id // 8] &= ~(1 << token_id % 8)
            if state.error is None and self._allows_some(bits, start):
                continue
            bits[start : start + self._row_bytes] = bytes([_EVERYTHING]) * self._row_bytes
            state.has_ended |= row == first and state.error is None

    def _allows_some(self, bits: bytearray, start: int) -> bool:
        """Return whether a mask allows a token of the model."""
        whole, rest = divmod(self._vocab_size, 8)
        if bits.count(0, start, start + whole) < whole:
            return True
        return bool(rest and bits[start + whole] & ((1 << rest) - 1))


def _end_if_slow(state: GrammarState) -> None:
    """Compute a mask alone, and set the state's error if it takes so long that all would wait."""
    started_s = time.thread_time()
    state.matcher.compute_bitmask()
    if state.error is None and time.thread_time() - started_s > TOO_SLOW_S:
        state.error = "the grammar cannot be followed: it takes too long"
