"""Read what an adapter has for the head of a classifier: weights that replace the model's own."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_PREFIX = "base_model.model."
# Embedders have no head: what follows their vectors in the model is not computed.
_UNUSED = re.compile(r"(?:\w+\.)?pooler\.")
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)

Reject = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class AdapterParts:
    """The tensors of an adapter's file. head: by the names of the model's parameters. others: with
    the file's names. head_pairs: low-rank matrices "A" and "B" of the head's layers."""

    head: Mapping[str, Tensor]
    head_pairs: Mapping[str, Mapping[str, Tensor]]
    others: Mapping[str, Tensor]


def split_head(
    tensors: Mapping[str, Tensor],
    head: Mapping[str, Tensor] | None,
    pattern: re.Pattern[str],
    reject: Reject,
) -> AdapterParts:
    """Split an adapter's tensors. head: the model's parameters in its head; None: it generates.

    pattern: of the names of low-rank matrices. reject: raises an error for the operator.
    """
    if head is None:
        return AdapterParts({}, {}, tensors)
    found: dict[str, Tensor] = {}
    pairs: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        own, match = name.removeprefix(_PREFIX), pattern.fullmatch(name)
        if own in head:
            found[own] = _checked(own, tensor, head[own], reject)
        elif match is not None and f"{match[1]}.weight" in head:
            pairs.setdefault(match[1], {})[match[2]] = tensor
        elif match is None or not _UNUSED.match(match[1]) or head:
            others[name] = tensor
    for layer, pair in pairs.items():
        if len(pair) != 2:
            reject(f"{layer!r} has only one of its two matrices")
    return AdapterParts(found, pairs, others)


def _checked(name: str, tensor: Tensor, own: Tensor, reject: Reject) -> Tensor:
    if tensor.shape != own.shape or tensor.dtype not in _FLOATS:
        reject(f"{name!r} is {list(tensor.shape)}, where the model has {list(own.shape)} numbers")
    number = tensor.to(own.dtype)
    if not bool(number.isfinite().all()):
        reject(f"{name!r} has values that are not finite")
    return number
