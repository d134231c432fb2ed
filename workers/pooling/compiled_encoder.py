"""Compute the vectors of many texts' tokens with a compiled program: one call for many texts.

Keys and values lie in a paged cache, as those of a generator do, but only while a layer is
computed: all layers use the same memory.
"""

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from headrace.protocol.to_worker import Encode
from headrace.workers.attention.backend import AttentionBatch, Span
from headrace.workers.native.adapter_slots import NativeAdapterSlots
from headrace.workers.native.library import GROUP_TOKENS
from headrace.workers.native.program import CompiledProgram, Program
from headrace.workers.pooling.positions import Positions
from headrace.workers.progress import reporting

# Tokens of a call, unless one text has more: fewer leave threads to wait for each other more often.
_CALL_TOKENS = 2048

_TIMED_TOKENS = 64  # a call of fewer says little of what a token takes


class CompiledEncoder:
    """A model without its head, as a program.

    positions: returns the positions of a text's tokens. slots: for LoRA adapters; None: it takes
        none. cosine: the least of its vectors to those of the model itself.
    """

    def __init__(
        self,
        compiled: CompiledProgram,
        positions: Positions,
        slots: NativeAdapterSlots | None = None,
    ) -> None:
        self.compiled, self.slots = compiled, slots
        self._positions = positions
        self.cosine = 1.0
        self._num_blocks = 0
        self._program: Program | None = None
        self._token_s = 0.0  # what a token takes, by the slowest call so far

    def encode(self, requests: Sequence[Encode], report: Callable[[], None]) -> list[Tensor]:
        """Return the vectors [tokens, size] of each text, in float32.

        report: called after each of the program's calls, and meanwhile, from another thread, if
            one takes long. Raises MemoryError if there is no memory.
        """
        vectors: list[Tensor] = []
        for texts in calls(requests, 0 if self.slots is None else self.slots.num_slots):
            tokens = sum(len(text.prompt_token_ids) for text in texts)
            started = time.monotonic()
            with reporting(report, tokens * self._token_s):
                vectors += self._run(texts)
            if tokens >= _TIMED_TOKENS:
                self._token_s = max(self._token_s, (time.monotonic() - started) / tokens)
            report()
        return vectors

    def _run(self, texts: Sequence[Encode]) -> list[Tensor]:
        token_ids: list[int] = []
        places: list[int] = []
        types: list[int] = []
        spans, block = [], 0
        for text in texts:
            ids = text.prompt_token_ids
            blocks = -(-len(ids) // GROUP_TOKENS)
            spans.append(Span(len(token_ids), len(ids), 0, range(block, block + blocks)))
            block += blocks
            token_ids += ids
            places += self._positions(ids)
            types += text.token_type_ids or [0] * len(ids)
        rows = range(len(token_ids))
        output = self._program_for(block).forward(
            token_ids, places, rows, AttentionBatch([], spans), self._slots_of(texts), self.slots,
            token_types=types,
        )  # fmt: skip
        return list(torch.split(output.clone(), [span.num_rows for span in spans]))

    def _slots_of(self, texts: Sequence[Encode]) -> Tensor | None:
        """Return the adapter slot of each row; None if no text has one."""
        if self.slots is None:
            return None
        names = [text.adapter for text in texts]
        return self.slots.slots_of(names, [len(text.prompt_token_ids) for text in texts])

    def _program_for(self, num_blocks: int) -> Program:
        """Return the program with a cache of so many blocks at least."""
        if self._program is None or num_blocks > self._num_blocks:
            self._num_blocks = max(num_blocks, 2 * self._num_blocks)
            self._program = None  # frees its memory first
            self._program = self.compiled.start(self._num_blocks, GROUP_TOKENS, shares_layers=True)
        return self._program


def calls(
    requests: Sequence[Encode], max_adapters: int = 0, most_tokens: int = _CALL_TOKENS
) -> Iterator[Sequence[Encode]]:
    """Yield texts that one call computes, in their order: a text is never split.

    max_adapters: different ones in a call; 0: any number. most_tokens: of several texts.
    """
    start = tokens = 0
    adapters: set[str] = set()
    for index, request in enumerate(requests):
        length = len(request.prompt_token_ids)
        others = adapters | ({request.adapter} - {""})
        if index > start and (tokens + length > most_tokens or len(others) > max_adapters > 0):
            yield requests[start:index]
            start, tokens = index, 0
            others = {request.adapter} - {""}
        tokens += length
        adapters = others
    if requests:
        yield requests[start:]
