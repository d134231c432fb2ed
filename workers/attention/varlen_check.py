"""Test a variable-length attention, as installed and on the device at hand, on known answers.

Versions and GPUs differ in the shapes that they accept and compute wrongly, so it is tried with the
shapes of the model's own layers, and with sequences long enough to be computed in parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from subprocess import SubprocessError

import torch

from headrace.workers.attention.backend import (
    AttentionBatch,
    AttentionOptions,
    BackendFactory,
    KVLayerShape,
    Span,
)
from headrace.workers.attention.varlen import PAGE_SIZE, VarlenBackend
from headrace.workers.attention.varlen_call import VarlenAttention

_DECODES = (1500, 1, 700)  # lengths of sequences, including their last rows
_CHUNKS = ((0, 90), (600, 40))  # context and rows of each
# What torch raises for unsupported arguments, and what a missing compiler raises.
_UNSUPPORTED_ERRORS = (RuntimeError, TypeError, ValueError, OSError, SubprocessError)
_TOLERANCE = 0.03  # relative to the root mean square, for 16-bit floats


@dataclass(frozen=True, slots=True)
class LayerKind:
    """The properties of a layer that matter to attention: query heads, cache shape and options."""

    heads: int
    shape: KVLayerShape
    options: AttentionOptions


def attends_correctly(
    kind: LayerKind,
    dtype: torch.dtype,
    device: torch.device,
    attention: VarlenAttention,
    *,
    paged: bool,
    page_size: int = PAGE_SIZE,
) -> bool:
    """Return whether a layer of that kind is computed correctly, from pages or gathered keys."""
    backend = partial(VarlenBackend, paged=paged, attention=attention)
    try:
        output, expected = _outputs(kind, dtype, device, backend, page_size)
    except _UNSUPPORTED_ERRORS:
        return False
    error = (output.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    return bool(error < _TOLERANCE)


@torch.inference_mode()
def _outputs(
    kind: LayerKind,
    dtype: torch.dtype,
    device: torch.device,
    make_backend: BackendFactory,
    page_size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the backend's output and the expected one, [rows, heads, dim] each."""
    batch = _batch(page_size)
    spans = [*batch.decodes, *batch.prefills]
    num_blocks = sum(len(span.blocks) for span in spans)
    backend = make_backend([kind.shape], num_blocks, page_size, dtype, device)
    sequences = [_random(kind, span.length, seed) for seed, span in enumerate(spans)]
    for span, tensors in zip(spans, sequences, strict=True):
        if span.context:
            before = Span(0, span.context, 0, span.blocks)
            backend.prepare(AttentionBatch((), [before]))
            backend.write(0, *(part[: span.context].to(device, dtype) for part in tensors[1:]))
    backend.prepare(batch)
    rows = [
        [part[span.context :] for part in tensors]
        for span, tensors in zip(spans, sequences, strict=True)
    ]
    query, key, value = (torch.cat(parts).to(device, dtype) for parts in zip(*rows, strict=True))
    backend.write(0, key, value)
    output = backend.attend(0, query, key, value, kind.options)
    rounded = [[part.to(dtype).float() for part in tensors] for tensors in sequences]
    expected = [
        plain_attention(query[span.context :], key, value, kind.options)
        for span, (query, key, value) in zip(spans, rounded, strict=True)
    ]
    return output.cpu(), torch.cat(expected)


def plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: AttentionOptions
) -> torch.Tensor:
    """Compute the attention of one sequence by definition; query [rows, heads, dim] holds the last
    rows."""
    rows, heads, _ = query.shape
    repeated = [part.repeat_interleave(heads // part.shape[1], dim=1) for part in (key, value)]
    scores = torch.einsum("qhd,khd->hqk", query, repeated[0]) * options.scaling
    positions = torch.arange(len(key), device=key.device)
    query_positions = positions[len(key) - rows :, None]
    visible = positions <= query_positions
    if options.window is not None:
        visible &= positions > query_positions - options.window
    weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, repeated[1])


def _batch(page_size: int) -> AttentionBatch:
    """Return decodes and chunks whose pages are in descending order."""
    pages = iter(range(1000))
    spans = []
    row = 0
    for context, rows in [*((length - 1, 1) for length in _DECODES), *_CHUNKS]:
        count = -(-(context + rows) // page_size)
        blocks = [next(pages) for _ in range(count)][::-1]
        spans.append(Span(row, rows, context, blocks))
        row += rows
    return AttentionBatch(spans[: len(_DECODES)], spans[len(_DECODES) :])


def _random(kind: LayerKind, length: int, seed: int) -> Sequence[torch.Tensor]:
    """Return a random query, key and value with moderate scores whatever the scaling."""
    generator = torch.Generator().manual_seed(seed)
    dim, kv_heads = kind.shape.key_dim, kind.shape.kv_heads
    strength = (2.0 / (abs(kind.options.scaling) * dim**0.5)) ** 0.5
    query = torch.randn((length, kind.heads, dim), generator=generator) * strength
    key = torch.randn((length, kv_heads, dim), generator=generator) * strength
    value = torch.randn((length, kv_heads, kind.shape.value_dim), generator=generator)
    return query, key, value
