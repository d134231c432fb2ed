"""Draws tokens by a compiled kernel (src/draw.h): all rows of a batch in one call, over threads.

It makes the same choice as workers.sampling.sampler does with torch's operations. Weights and
their sums are
rounded differently, so the two part where a uniform number or a cut is within about a millionth of
a token's bounds.
"""

import functools
from collections.abc import Sequence

import torch

from headrace.protocol.sampling import SamplingParams
from headrace.workers.native.library import CDraw, load_kernels, unsupported_reason


def can_draw(device: torch.device) -> bool:
    """Whether the kernel is there for logits on this device."""
    return device.type == "cpu" and unsupported_reason(torch.float32) is None


def draw(
    logits: torch.Tensor,
    rows: Sequence[int],
    samplings: Sequence[SamplingParams],
    uniforms: Sequence[float],
) -> tuple[torch.Tensor, torch.Tensor]:
    """A token for each of these rows of logits [batch, vocabulary], float32; samplings and uniforms
    are theirs. Temperatures are above zero.

    Second, which rows have a distribution at all [rows]: of others the token means nothing.
    """
    library = load_kernels()
    assert library is not None
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    size = logits.shape[1]
    least = torch.tensor([sampling.min_p for sampling in samplings]).log_().tolist()
    draws = (CDraw * len(rows))(
        *(
            CDraw(row, uniform, one.temperature, low, one.top_p, min(max(one.top_k, 0), size))
            for row, uniform, one, low in zip(rows, uniforms, samplings, least, strict=True)
        )
    )
    token_ids = torch.empty(len(rows), dtype=torch.long)
    if library.draw(
        _threads(torch.get_num_threads()), logits.data_ptr(), logits.stride(0), size, draws,
        len(rows), token_ids.data_ptr(),
    ):  # fmt: skip
        raise MemoryError("no memory to draw tokens")
    return token_ids.clamp(min=0), token_ids >= 0


@functools.cache
def _threads(count: int) -> int:
    """So many threads that draw; they stay."""
    library = load_kernels()
    assert library is not None
    address = library.new_draws(count)
    if not address:
        raise MemoryError("no memory to draw tokens")
    return address
