"""Rotary embeddings whose frequencies switch when a sequence outgrows a length (longrope).

transformers looks at the longest sequence of a batch. Here each row has the frequencies that its
own sequence would have alone: the module runs once for the rows of short sequences and once for
those of long ones.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch

from headrace.workers.attention.backend import AttentionBatch, Span


def long_rows(batch: AttentionBatch, switch_length: int) -> list[bool] | None:
    """Return for each row whether its sequence has more tokens than that; None if none has."""
    spans: Sequence[Span] = [*batch.decodes, *batch.prefills]
    if all(span.known <= switch_length for span in spans):
        return None
    rows = ([span.known > switch_length] * span.num_rows for span in spans)
    return list(chain.from_iterable(rows))


def switching_modules(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Return the modules whose frequencies switch."""
    return filter(is_switching, model.modules())


def is_switching(module: torch.nn.Module) -> bool:
    """Return whether a module's frequencies, or some of them, follow the longest sequence."""
    kinds = getattr(module, "rope_type", None)
    return "longrope" in (kinds.values() if isinstance(kinds, dict) else (kinds,))


def tables_by_row(
    module: Any,
    is_long: torch.Tensor,
    x: torch.Tensor,
    position_ids: torch.Tensor,
    layer_type: str | None = None,
) -> tuple[torch.Tensor, ...]:
    """Compute cosines and sines [1, rows, width], those of short and of long sequences each.

    is_long: of each row [rows]. position_ids: [1, rows]. layer_type: of a module that has tables
    of several kinds.
    """
    forward: Callable[..., tuple[torch.Tensor, ...]] = type(module).forward
    parameters = module.config.rope_parameters
    kind = () if layer_type is None else (layer_type,)
    own = parameters if layer_type is None else parameters[layer_type]
    # The largest position decides: one more row makes it a long one, and zeros a short one.
    beyond = own.get("original_max_position_embeddings", 0)
    more = torch.nn.functional.pad(position_ids, (0, 1), value=beyond)
    long = forward(module, x, more, *kind)
    short = forward(module, x, position_ids.masked_fill(is_long, 0), *kind)
    chosen = is_long[None, :, None]
    return tuple(
        torch.where(chosen, table[:, :-1], other) for table, other in zip(long, short, strict=True)
    )
