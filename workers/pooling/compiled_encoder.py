"""Compute the vectors of many texts' tokens with a compiled program: one call for many texts.

Keys and values lie in a paged cache, as those of a generator do, but only while a layer is
computed: all layers use the same memory.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from headrace.protocol.config import EngineConfig
from headrace.protocol.to_worker import Encode
from headrace.workers.attention.backend import AttentionBatch, Span
from headrace.workers.attention.hook import AttentionHook, attention_of
from headrace.workers.errors import ModelUnsupported
from headrace.workers.native.capturing.forward_pass import PassInputs, compute_hidden
from headrace.workers.native.graph import NotStatic
from headrace.workers.native.library import GROUP_TOKENS, unsupported_reason
from headrace.workers.native.plan import plan_program
from headrace.workers.native.program import CompiledProgram, Program
from headrace.workers.native.weight_memory import SharedWeights
from headrace.workers.pooling.offset_attention import offset_attention

# Tokens of a call, unless one text has more: fewer leave threads to wait for each other more often.
_CALL_TOKENS = 2048

# A call that should take longer is reported so often while it runs, for at most so many times as
# long as it should take: attention to many tokens takes longer, and machines have other work.
_REPORT_S = 1.0
_PATIENCE = 20
_TIMED_TOKENS = 64  # a call of fewer says little of what a token takes

Positions = Callable[[Sequence[int]], Sequence[int]]


class CompiledEncoder:
    """A model without its head, as a program.

    positions: returns the positions of a text's tokens.
    """

    def __init__(self, compiled: CompiledProgram, positions: Positions) -> None:
        self.compiled = compiled
        self._positions = positions
        self._num_blocks = 0
        self._program: Program | None = None
        self._token_s = 0.0  # what a token takes, by the slowest call so far

    def encode(self, requests: Sequence[Encode], report: Callable[[], None]) -> list[Tensor]:
        """Return the vectors [tokens, size] of each text, in float32.

        report: called after each of the program's calls, and meanwhile, from another thread, if
            one takes long. Raises MemoryError if there is no memory.
        """
        vectors: list[Tensor] = []
        for texts in calls(requests):
            tokens = sum(len(text.prompt_token_ids) for text in texts)
            started = time.monotonic()
            with _reporting(report, tokens * self._token_s):
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
            token_ids, places, rows, AttentionBatch([], spans), token_types=types
        )
        return list(torch.split(output.clone(), [span.num_rows for span in spans]))

    def _program_for(self, num_blocks: int) -> Program:
        """Return the program with a cache of so many blocks at least."""
        if self._program is None or num_blocks > self._num_blocks:
            self._num_blocks = max(num_blocks, 2 * self._num_blocks)
            self._program = None  # frees its memory first
            self._program = self.compiled.start(self._num_blocks, GROUP_TOKENS, shares_layers=True)
        return self._program


@contextmanager
def _reporting(report: Callable[[], None], expected_s: float) -> Iterator[None]:
    """Report while something runs that takes long; no more if it takes far too long."""
    if expected_s < _REPORT_S:
        yield
        return
    ended = threading.Event()

    def run() -> None:
        until = time.monotonic() + _PATIENCE * expected_s
        while not ended.wait(_REPORT_S) and time.monotonic() < until:
            report()

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def calls(requests: Sequence[Encode]) -> Iterator[Sequence[Encode]]:
    """Yield texts that one call computes, in their order: a text is never split."""
    start = tokens = 0
    for index, request in enumerate(requests):
        length = len(request.prompt_token_ids)
        if index > start and tokens + length > _CALL_TOKENS:
            yield requests[start:index]
            start, tokens = index, 0
        tokens += length
    if requests:
        yield requests[start:]


@torch.no_grad()  # in inference mode, weights of GGUF files cannot be cut
def compile_encoder(
    model: PreTrainedModel,
    config: EngineConfig,
    threads: int,
    positions: Positions,
    dtype: torch.dtype,
    longest: int,
    shared: SharedWeights | None = None,
) -> tuple[CompiledEncoder | None, str]:
    """Return the compiled encoder; or None, and why torch's operations run the model.

    dtype: of products; embeddings, norms and sums keep the model's. longest: tokens of a text.
    shared: the weights that the group's workers share.

    The model's attention is as before afterwards.
    """
    reason = "the compiled kernels run on CPUs only"
    if model.device.type == "cpu":
        reason = unsupported_reason(dtype) or ""
    if reason:
        return None, reason
    hook = AttentionHook(allows_both_ways=True)
    with attention_of(model, hook.name), offset_attention(model, hook.name, longest):
        try:
            compiled = _compile(model, hook, config, threads, dtype, shared)
        except (NotStatic, ModelUnsupported) as error:
            return None, f"{type(model).__name__} has no fixed program: {error}"
        except (TypeError, ValueError, RuntimeError, KeyError, IndexError) as error:
            # A model's own code, which the probe and the capture call in an unusual way.
            shown = (str(error).splitlines() or [type(error).__name__])[0]
            return None, f"{type(model).__name__} cannot be captured: {shown}"
    return CompiledEncoder(compiled, positions), ""


def _compile(
    model: PreTrainedModel,
    hook: AttentionHook,
    config: EngineConfig,
    threads: int,
    dtype: torch.dtype,
    shared: SharedWeights | None,
) -> CompiledProgram:
    def run(token_ids: Tensor) -> Any:
        nothing = torch.zeros_like(token_ids)
        return compute_hidden(model, PassInputs(token_ids, nothing, nothing, nothing[0]))

    hook.probe(model, run)
    plan = plan_program(model, hook, config.quantization, forward=compute_hidden, dtype=dtype)
    return CompiledProgram.of_plan(plan, threads, shared)
