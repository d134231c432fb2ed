"""Refuse, in one line, models whose attention paged attention cannot do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.modeling_utils import PreTrainedModel

from headrace.workers.errors import ModelUnsupported

_OBSTACLES = {
    "DeepseekV4HCACompressor": "attends to compressed keys of many tokens",
    "DeepseekV4CSACompressor": "attends to compressed keys of many tokens",
    "InklingRelativeLogits": "computes biases of scores from each query",
}
_HARMLESS_TENSORS = frozenset({"position_ids", "cache_position"})


@contextmanager
def failures_in_one_line(model: PreTrainedModel, step: str) -> Iterator[None]:
    """Raise ModelUnsupported for what a model raises that cannot do with a paged attention.

    step: what is being done, for the operator.
    """
    try:
        yield
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelUnsupported(
            f"{type(model).__name__} fails in its {step}: {first_line}"
        ) from error


def check_parts(model: PreTrainedModel) -> None:
    """Raises ModelUnsupported for models whose layers attend to more than the tokens' own keys."""
    for module in model.modules():
        obstacle = _OBSTACLES.get(type(module).__name__)
        if obstacle is not None:
            raise ModelUnsupported(
                f"{type(model).__name__} {obstacle}, which paged attention lacks"
            )


def check_call(
    query: torch.Tensor,
    key: torch.Tensor,
    attention_mask: torch.Tensor | None,
    others: dict[str, Any],
) -> None:
    """Check for plain self-attention; raises ModelUnsupported for any other."""
    if query.shape[2] != key.shape[2]:
        raise ModelUnsupported("it attends to something other than its own tokens")
    if attention_mask is not None:
        raise ModelUnsupported("its attention needs a mask of its own")
    for name, value in others.items():
        if isinstance(value, torch.Tensor) and name not in _HARMLESS_TENSORS:
            raise ModelUnsupported(f"its attention needs {name}, which paged attention lacks")
