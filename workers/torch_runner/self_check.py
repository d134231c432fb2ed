"""Check at start that the paged forward pass gives the logits of transformers' own.

An architecture that keeps other state than keys and values, biases its scores by distance, or lets
tokens attend to other sequences would silently generate wrong text. It is rejected here. What an
architecture does only in longer sequences is looked for, too: see `_check_beyond`.
"""

import itertools
import time
from collections.abc import Callable
from collections.abc import Sequence as Items
from typing import Protocol

import torch
from transformers.modeling_utils import PreTrainedModel

from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_worker import Generate
from headrace.workers.attention.backend import AttentionBatch
from headrace.workers.attention.hook import AttentionHook, attention_of
from headrace.workers.attention.older_models import reference_attention
from headrace.workers.attention.refusals import failures_in_one_line
from headrace.workers.attention.sparse import ties_by_position
from headrace.workers.errors import ModelUnsupported
from headrace.workers.recurrent.probe import keeps_states
from headrace.workers.sampling.batch import flatten
from headrace.workers.sequence.sequence import Chunk, Sequence
from headrace.workers.sequence.state_use import StateUse
from headrace.workers.torch_runner.check_lengths import (
    BEYOND,
    crossings,
    few_layers,
    small_numbers,
)
from headrace.workers.torch_runner.model_runner import ModelRunner

_LENGTHS = (13, 31)  # tokens of the two sequences
_CHECKED = 20  # a number of tokens that these lengths cross
# The longer sequences run on the whole model only if that takes less than this, by the time that
# the short ones took; else on a few layers, and with fewer tokens than this.
_WHOLE_SECONDS = 0.5
_MOST_TOKENS = 640
CHECKED_STATE_SLOTS = 4  # see _state_uses
_EXACT_TOLERANCE = 2e-3
_ROUNDED_TOLERANCE = 0.15
_QUANTIZED_TOLERANCE = 0.5  # 8 bits for weights and rows cost 0.2; another architecture 1 and more

_ChunkEnd = tuple[Sequence, int]  # a sequence and its number of tokens at a chunk's end


class PagedForward(Protocol):
    """The forward pass of a runner; see headrace.workers.torch_runner.model_runner."""

    @property
    def vocab_size(self) -> int: ...

    def forward(
        self,
        token_ids: Items[int],
        positions: Items[int],
        logit_rows: Items[int],
        batch: AttentionBatch,
    ) -> torch.Tensor: ...


def check_model(
    model: PreTrainedModel,
    make_runner: Callable[[int], PagedForward],
    max_model_len: int,
    block_size: int,
    is_rounded: bool = False,
    hook: AttentionHook | None = None,
) -> None:
    """Check the runner's logits; raises ModelUnsupported if they differ by more than rounding.

    make_runner: makes a runner with a cache of that number of blocks.
    is_rounded: whether the runner's weights are quantized and the model's are not.
    hook: the model's attention; None: only short sequences are checked.

    The error is the root mean square of the difference over the spread of transformers' logits, at
    the end of each chunk. The largest error counts for float32, else the median: a mixture of
    experts may route one token differently by rounding alone.
    """
    start = time.perf_counter()
    _check(model, make_runner, _LENGTHS, max_model_len, block_size, is_rounded)
    if hook is not None:
        seconds = time.perf_counter() - start
        _check_beyond(model, make_runner, max_model_len, block_size, is_rounded, hook, seconds)


def _check_beyond(
    model: PreTrainedModel,
    make_runner: Callable[[int], PagedForward],
    max_model_len: int,
    block_size: int,
    is_rounded: bool,
    hook: AttentionHook,
    seconds: float,
) -> None:
    """Check sequences that cross what the model's configuration names: windows, chunks and others.

    seconds: that the check of short sequences took.

    Where that would take long, torch's operations are checked on the model's first layers alone,
    and numbers too large to be crossed are small ones meanwhile, in both passes.
    """
    numbers = [n for n in crossings(model, hook) if _CHECKED < n < max_model_len]
    tokens = seconds / sum(_LENGTHS)
    whole = [n for n in numbers if tokens * (n + BEYOND) < _WHOLE_SECONDS and n < _MOST_TOKENS]
    if whole:
        lengths = (_LENGTHS[0], whole[-1] + BEYOND)
        _check(model, make_runner, lengths, max_model_len, block_size, is_rounded)
    if len(whole) < len(numbers):
        _check_few_layers(model, numbers, max_model_len, block_size, tokens, hook)


def _check_few_layers(
    model: PreTrainedModel,
    numbers: list[int],
    max_model_len: int,
    block_size: int,
    seconds: float,
    hook: AttentionHook,
) -> None:
    """Check torch's operations on a few layers. seconds: that the whole model takes for a token."""
    if keeps_states(model):  # its layers are split for the states of all of them
        return
    with few_layers(model) as share:
        affordable = [
            n
            for n in numbers
            if n < _MOST_TOKENS and seconds * share * (n + BEYOND) < _WHOLE_SECONDS
        ]
        largest = max([_CHECKED, *affordable])
        with small_numbers(model, largest), attention_of(model, hook.name):
            few = AttentionHook()
            try:
                with torch.inference_mode():
                    few.probe(model)
            except ModelUnsupported:  # it needs all of its layers, with which it was probed before
                return

            def make_runner(num_blocks: int) -> PagedForward:
                return ModelRunner(
                    model,
                    few,
                    max_model_len=max_model_len,
                    num_blocks=num_blocks,
                    block_size=block_size,
                )

            lengths = (_LENGTHS[0], max(largest + BEYOND, _LENGTHS[1]))
            _check(model, make_runner, lengths, max_model_len, block_size, is_rounded=False)


def _check(
    model: PreTrainedModel,
    make_runner: Callable[[int], PagedForward],
    lengths: tuple[int, int],
    max_model_len: int,
    block_size: int,
    is_rounded: bool,
) -> None:
    """Compare the logits of two sequences of these lengths."""
    with failures_in_one_line(model, "self-check"), ties_by_position():
        errors = _errors(model, make_runner, lengths, max_model_len, block_size)
    exact = model.dtype == torch.float32 and not is_rounded
    error = float(errors.max() if exact else errors.median())
    tolerance = _EXACT_TOLERANCE if exact else _ROUNDED_TOLERANCE
    if error != error:
        raise ModelUnsupported(computes_nan(model))
    if not error <= (_QUANTIZED_TOLERANCE if is_rounded else tolerance):
        raise ModelUnsupported(
            f"{type(model).__name__} generates different text with a paged cache "
            f"(logits differ by {error:.2g} of their spread)"
        )


def computes_nan(model: PreTrainedModel) -> str:
    """Return what is said of a model whose logits are no numbers."""
    dtype = str(model.dtype).removeprefix("torch.")
    return f"{type(model).__name__} computes NaN: its weights are damaged, or too large for {dtype}"


def _errors(
    model: PreTrainedModel,
    make_runner: Callable[[int], PagedForward],
    wanted: tuple[int, int],
    max_model_len: int,
    block_size: int,
) -> torch.Tensor:
    """Return the error at the end of each chunk [chunks].

    Three steps are compared: one whole sequence with the first chunk of another; the second chunk
    of that with a decode of the first sequence; a decode of both.
    """
    lengths = [min(length, max_model_len) for length in wanted]
    tables = _scattered_blocks([-(-length // block_size) for length in lengths])
    paged = make_runner(sum(map(len, tables)))
    sequences = [
        _random_sequence(length, blocks, paged.vocab_size)
        for length, blocks in zip(lengths, tables, strict=True)
    ]
    steps = _steps(*sequences)
    paged_logits = _paged_logits(paged, steps)
    reference = _reference_logits(model, steps)
    return torch.stack([_difference(paged_logits[end], reference[end]) for end in paged_logits])


def _scattered_blocks(counts: list[int]) -> list[list[int]]:
    """Return block tables with these numbers of blocks, none in ascending order."""
    tables: list[list[int]] = []
    first = 0
    for count in counts:
        tables.append(list(range(first + count - 1, first - 1, -1)))
        first += count
    return tables


def _random_sequence(length: int, blocks: list[int], vocab_size: int) -> Sequence:
    generator = torch.Generator().manual_seed(length)
    token_ids = tuple(torch.randint(vocab_size, (length,), generator=generator).tolist())
    request = Generate("self-check", token_ids, SamplingParams(seed=0, max_tokens=1))
    sequence = Sequence.of(request, 0, 0.0)
    sequence.blocks = blocks
    return sequence


def _steps(first: Sequence, second: Sequence) -> list[list[Chunk]]:
    """Return the chunks of the three steps, without empty ones."""
    first_end, second_end = len(first.token_ids) - 2, len(second.token_ids) - 1
    middle = second_end // 2
    steps = [
        [(first, 0, first_end), (second, 0, middle)],
        [(second, middle, second_end), (first, first_end, first_end + 1)],
        [(first, first_end + 1, first_end + 2), (second, second_end, second_end + 1)],
    ]
    return [
        [
            Chunk(sequence, start, end - start, True, state=state)
            for (sequence, start, end), state in zip(step, states, strict=True)
            if end > start >= 0
        ]
        for step, states in zip(steps, _state_uses(), strict=True)
    ]


def _state_uses() -> list[tuple[StateUse, StateUse]]:
    """Return what the chunks of the three steps do with recurrent states, if there are any.

    The second sequence continues from a snapshot, in another slot than it began in.
    """
    first, second = StateUse(0), StateUse(3)
    return [
        (first, StateUse(1, saved_to=2)),
        (StateUse(3, restored_from=2), first),
        (first, second),
    ]


@torch.inference_mode()
def _paged_logits(paged: PagedForward, steps: list[list[Chunk]]) -> dict[_ChunkEnd, torch.Tensor]:
    """Compute logits [vocabulary] after each chunk with the paged path."""
    logits = {}
    for chunks in steps:
        rows = flatten(chunks)
        output = paged.forward(rows.token_ids, rows.positions, rows.wanted, rows.batch)
        for number, row in zip(rows.order, output, strict=True):
            logits[chunks[number].sequence, chunks[number].end] = row.clone()
    return logits


@torch.inference_mode()
def _reference_logits(
    model: PreTrainedModel, steps: list[list[Chunk]]
) -> dict[_ChunkEnd, torch.Tensor]:
    """Compute the same logits with transformers, each sequence alone and in one forward pass."""
    ends: dict[Sequence, list[int]] = {}
    for chunk in itertools.chain(*steps):
        ends.setdefault(chunk.sequence, []).append(chunk.end)
    logits = {}
    for sequence, chunk_ends in ends.items():
        token_ids = torch.tensor([sequence.token_ids], device=model.device)
        last_rows = torch.tensor(chunk_ends, device=model.device) - 1
        with attention_of(model, reference_attention(model)):
            output = model(input_ids=token_ids, use_cache=False, logits_to_keep=last_rows)
        rows = zip(chunk_ends, output.logits[0], strict=True)
        logits.update({(sequence, end): row for end, row in rows})
    return logits


def _difference(paged_logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return the root mean square of the difference over the spread of `reference`."""
    reference = reference[: len(paged_logits)].float()
    return (paged_logits.float() - reference).square().mean().sqrt() / reference.std()
