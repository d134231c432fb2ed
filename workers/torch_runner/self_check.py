"""A check at start: does the paged path give what transformers' own forward gives?

An architecture that keeps other state than keys and values, biases its scores by distance, or lets
tokens of one sequence see another's would give wrong text without any error. Here it is refused.
"""

import itertools
from collections.abc import Callable
from collections.abc import Sequence as Items
from typing import Protocol

import torch
from transformers.modeling_utils import PreTrainedModel

from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_worker import Generate
from headrace.workers.attention.backend import AttentionBatch
from headrace.workers.attention.hook import attention_of
from headrace.workers.errors import ModelUnsupported
from headrace.workers.sampling.batch import flatten
from headrace.workers.sequence.sequence import Chunk, Sequence

_LENGTHS = (13, 31)  # tokens of the two sequences
_EXACT_TOLERANCE = 2e-3
_ROUNDED_TOLERANCE = 0.15
_QUANTIZED_TOLERANCE = 0.5  # 8 bits for weights and rows cost 0.2; another architecture 1 and more

_ChunkEnd = tuple[Sequence, int]  # a place in a text: after so many tokens of the sequence


class PagedForward(Protocol):
    """A runner's forward pass; see headrace.workers.torch_runner.model_runner."""

    @property
    def vocab_size(self) -> int: ...

    def forward(
        self,
        token_ids: Items[int],
        positions: Items[int],
        wanted: Items[int],
        batch: AttentionBatch,
    ) -> torch.Tensor: ...


def check_model(
    model: PreTrainedModel,
    make_runner: Callable[[int], PagedForward],
    max_model_len: int,
    block_size: int,
    is_rounded: bool = False,
) -> None:
    """ModelUnsupported if the two paths' logits differ by more than the dtype's error.

    make_runner: gives a runner with so many blocks.
    is_rounded: whether its weights are, and the model's are not.

    The measure is the root mean square of the difference over the spread of transformers' logits,
    at the end of each chunk: for float32 the worst counts, else the median (a mixture of experts
    may route one token elsewhere by rounding alone).
    """
    errors = _errors(model, make_runner, max_model_len, block_size)
    exact = model.dtype == torch.float32 and not is_rounded
    error = float(errors.max() if exact else errors.median())
    tolerance = _EXACT_TOLERANCE if exact else _ROUNDED_TOLERANCE
    if not error <= (_QUANTIZED_TOLERANCE if is_rounded else tolerance):
        raise ModelUnsupported(
            f"{type(model).__name__} gives other text with a paged cache than without "
            f"(logits differ by {error:.2g} of their spread)"
        )


def _errors(
    model: PreTrainedModel,
    make_runner: Callable[[int], PagedForward],
    max_model_len: int,
    block_size: int,
) -> torch.Tensor:
    """How far the paths are apart at the end of each chunk [chunks].

    Compared are three steps: one sequence whole beside the first chunk of another; its second
    chunk beside a decode of the first; a decode of both.
    """
    lengths = [min(length, max_model_len) for length in _LENGTHS]
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
    """Block tables of so many blocks each, none in ascending order."""
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
    """The chunks of the three steps; empty ones are left out."""
    whole, rest = len(first.token_ids) - 2, len(second.token_ids) - 1
    cut = rest // 2
    steps = [
        [(first, 0, whole), (second, 0, cut)],
        [(second, cut, rest), (first, whole, whole + 1)],
        [(first, whole + 1, whole + 2), (second, rest, rest + 1)],
    ]
    return [
        [Chunk(one, start, end - start, True) for one, start, end in step if end > start >= 0]
        for step in steps
    ]


@torch.inference_mode()
def _paged_logits(paged: PagedForward, steps: list[list[Chunk]]) -> dict[_ChunkEnd, torch.Tensor]:
    """Logits [vocabulary] after each chunk, from the paged path."""
    logits = {}
    for chunks in steps:
        rows = flatten(chunks)
        found = paged.forward(rows.token_ids, rows.positions, rows.wanted, rows.batch)
        for number, row in zip(rows.order, found, strict=True):
            logits[chunks[number].sequence, chunks[number].end] = row.clone()
    return logits


@torch.inference_mode()
def _reference_logits(model: PreTrainedModel, steps: list[list[Chunk]]) -> dict[_ChunkEnd, torch.Tensor]:
    """The same from transformers, which runs each sequence alone and in one go."""
    ends: dict[Sequence, list[int]] = {}
    for chunk in itertools.chain(*steps):
        ends.setdefault(chunk.sequence, []).append(chunk.end)
    logits = {}
    for sequence, some in ends.items():
        token_ids = torch.tensor([sequence.token_ids], device=model.device)
        wanted = torch.tensor(some, device=model.device) - 1
        with attention_of(model, "eager"):
            found = model(input_ids=token_ids, use_cache=False, logits_to_keep=wanted).logits[0]
        logits.update({(sequence, end): row for end, row in zip(some, found, strict=True)})
    return logits


def _difference(paged_logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Root mean square of the difference over the spread of `theirs`."""
    reference = reference[: len(paged_logits)].float()
    return (paged_logits.float() - reference).square().mean().sqrt() / reference.std()
