"""Draw tokens with a compiled kernel (src/draw.h): all rows of a batch in one call, over threads.

The kernel makes the same choice as headrace.workers.sampling.sampler does with torch's operations.
Weights and their sums are rounded differently, so the two differ where a uniform number or a cutoff
is within about a millionth of a token's bounds.
"""

import functools
from collections.abc import Sequence

import torch

from headrace.protocol.sampling import SamplingParams
from headrace.workers.native.library import CDraw, Kernels, load_kernels, require_kernels


def can_draw(device: torch.device) -> bool:
    """Return whether the kernel supports logits on this device."""
    return device.type == "cpu" and load_kernels() is not None


def draw(
    logits: torch.Tensor,
    rows: Sequence[int],
    samplings: Sequence[SamplingParams],
    uniforms: Sequence[float],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token for each of these rows of logits [batch, vocabulary], float32.

    samplings, uniforms: of the same rows; temperatures must be above zero.

    Returns the token ids [rows], and which rows have a distribution at all [rows]: the token ids of
    the others are meaningless. Raises MemoryError if there is no memory.
    """
    library = require_kernels()
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    size = logits.shape[1]
    log_min_ps = torch.tensor([sampling.min_p for sampling in samplings]).log_().tolist()
    draws = (CDraw * len(rows))(
        *(
            CDraw(
                row,
                uniform,
                params.temperature,
                log_min_p,
                params.top_p,
                min(max(params.top_k, 0), size),
            )
            for row, uniform, params, log_min_p in zip(
                rows, uniforms, samplings, log_min_ps, strict=True
            )
        )
    )
    token_ids = torch.empty(len(rows), dtype=torch.long)
    threads = _threads(library, torch.get_num_threads())
    if library.draw(
        threads, logits.data_ptr(), logits.stride(0), size, draws, len(rows), token_ids.data_ptr()
    ):  # fmt: skip
        raise MemoryError("no memory to draw tokens")
    return token_ids.clamp(min=0), token_ids >= 0


@functools.cache
def _threads(library: Kernels, count: int) -> int:
    """Start this number of threads that draw; they are kept."""
    address = library.new_draws(count)
    if not address:
        raise MemoryError("no memory to draw tokens")
    return address
