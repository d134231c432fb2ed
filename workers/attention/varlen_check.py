"""Known answers for torch's variable-length attention, as installed and on the device at hand.

Versions and cards differ in what they take and in what they get wrong, so it is tried, with the
shapes of the model's own layers, and with texts long enough to be computed in parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from subprocess import SubprocessError

import torch

from headrace.workers.attention.backend import (
    AttentionBatch,
    AttentionOptions,
    KVLayerShape,
    BackendFactory,
    Span,
)
from headrace.workers.attention.varlen import PAGE_SIZE, VarlenBackend
from headrace.workers.attention.varlen_call import VarlenAttention

_DECODES = (1500, 1, 700)  # lengths of texts, with their last rows
_CHUNKS = ((0, 90), (600, 40))  # contexts and rows after them
# How torch refuses what it cannot do; and how a compiler that is needed is found missing.
_UNSUPPORTED_ERRORS = (RuntimeError, TypeError, ValueError, OSError, SubprocessError)
_TOLERANCE = 0.03  # of the root mean square, for 16-bit floats


@dataclass(frozen=True, slots=True)
class LayerKind:
    """What makes layers alike: the query's heads, what is cached, and how it is attended to."""

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
    """Whether a layer of that kind attends rightly, to keys in pages or to gathered ones."""
    backend = partial(VarlenBackend, paged=paged, attention=attention)
    try:
        found, expected = _outputs(kind, dtype, device, backend, page_size)
    except _UNSUPPORTED_ERRORS:
        return False
    error = (found.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    return bool(error < _TOLERANCE)


@torch.inference_mode()
def _outputs(
    kind: LayerKind,
    dtype: torch.dtype,
    device: torch.device,
    make_backend: BackendFactory,
    page_size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the backend gives and what is right, [rows, heads, dim] each."""
    batch = _batch(page_size)
    spans = [*batch.decodes, *batch.prefills]
    num_blocks = sum(len(span.blocks) for span in spans)
    backend = make_backend([kind.shape], num_blocks, page_size, dtype, device)
    texts = [_random(kind, span.length, seed) for seed, span in enumerate(spans)]
    for span, text in zip(spans, texts, strict=True):
        if span.context:
            before = Span(0, span.context, 0, span.blocks)
            backend.prepare(AttentionBatch((), [before]))
            backend.write(0, *(part[: span.context].to(device, dtype) for part in text[1:]))
    backend.prepare(batch)
    last = [
        [part[span.context :] for part in text] for span, text in zip(spans, texts, strict=True)
    ]
    query, key, value = (torch.cat(parts).to(device, dtype) for parts in zip(*last, strict=True))
    backend.write(0, key, value)
    found = backend.attend(0, query, key, value, kind.options)
    rounded = [[part.to(dtype).float() for part in text] for text in texts]
    expected = [
        plain_attention(text[0][span.context :], text[1], text[2], kind.options)
        for span, text in zip(spans, rounded, strict=True)
    ]
    return found.cpu(), torch.cat(expected)


def plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: AttentionOptions
) -> torch.Tensor:
    """One sequence by the definition: query [rows, heads, dim] are the last rows of its keys'."""
    rows, heads, _ = query.shape
    repeated = [part.repeat_interleave(heads // part.shape[1], dim=1) for part in (key, value)]
    scores = torch.einsum("qhd,khd->hqk", query, repeated[0]) * options.scaling
    places = torch.arange(len(key), device=key.device)
    at = places[len(key) - rows :, None]
    seen = places <= at
    if options.window is not None:
        seen &= places > at - options.window
    weights = scores.masked_fill(~seen, float("-inf")).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, repeated[1])


def _batch(page_size: int) -> AttentionBatch:
    """Decodes and chunks whose pages are handed out from the last to the first."""
    pages = iter(range(1000))
    spans = []
    row = 0
    places = [(length - 1, 1) for length in _DECODES] + list(_CHUNKS)
    for context, rows in places:
        count = -(-(context + rows) // page_size)
        blocks = [next(pages) for _ in range(count)][::-1]
        spans.append(Span(row, rows, context, blocks))
        row += rows
    return AttentionBatch(spans[: len(_DECODES)], spans[len(_DECODES) :])


def _random(kind: LayerKind, length: int, seed: int) -> Sequence[torch.Tensor]:
    """Query, key and value of a text, of moderate scores whatever the scaling."""
    generator = torch.Generator().manual_seed(seed)
    dim, kv_heads = kind.shape.key_dim, kind.shape.kv_heads
    strength = (2.0 / (abs(kind.options.scaling) * dim**0.5)) ** 0.5
    query = torch.randn((length, kind.heads, dim), generator=generator) * strength
    key = torch.randn((length, kv_heads, dim), generator=generator) * strength
    value = torch.randn((length, kv_heads, kind.shape.value_dim), generator=generator)
    return query, key, value
