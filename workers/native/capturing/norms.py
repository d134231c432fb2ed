"""Find out which norm a module computes, by trying it: class names say little."""

import copy
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm: out = (x - mean) / sqrt(variance + eps) * weight + bias.

    centred: whether a mean is subtracted; RMS norms subtract none (Zhang and Sennrich, 2019).
    plus_one: whether the factor is 1 + weight.
    """

    eps: float
    centred: bool
    plus_one: bool
    weight: torch.Tensor | None
    bias: torch.Tensor | None


def find_norm(module: torch.nn.Module) -> Norm | None:
    """Return the norm that a module computes; None if it is not a known one."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if not _is_vector(weight) or any(True for _ in module.children()):
        return None
    names = {name for name, _ in module.named_parameters()}
    eps = next(
        (getattr(module, n) for n in ("variance_epsilon", "eps") if hasattr(module, n)), None
    )
    if not names <= {"weight", "bias"} or not isinstance(eps, float):
        return None
    for centred in (False, True):
        for plus_one in (False, True):
            norm = Norm(eps, centred, plus_one, weight, bias if _is_vector(bias) else None)
            if _matches(module, norm):
                return norm
    return None


def _is_vector(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 1


def apply_norm(norm: Norm, x: torch.Tensor) -> torch.Tensor:
    """Compute the norm of x [..., size], in float32."""
    x = x.float()
    if norm.centred:
        x = x - x.mean(-1, keepdim=True)
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.eps)
    if norm.weight is not None:
        x = x * (norm.weight.float() + (1.0 if norm.plus_one else 0.0))
    return x if norm.bias is None else x + norm.bias.float()


def _matches(module: torch.nn.Module, norm: Norm) -> bool:
    """Compare the outputs on rows with a mean, some of them so small that eps matters."""
    assert norm.weight is not None
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((4, norm.weight.shape[0]), generator=generator) + 0.5
    x = x * torch.tensor([[1e-3], [1e-2], [1.0], [10.0]])
    exact_module = copy.deepcopy(module).float()
    try:
        with torch.inference_mode():
            output = exact_module(x.to(norm.weight.device))
    except (RuntimeError, IndexError, TypeError, ValueError):
        return False  # one that takes something other than rows, such as pictures
    return isinstance(output, torch.Tensor) and torch.allclose(
        output.float(), apply_norm(norm, x.to(norm.weight.device)), rtol=1e-4, atol=1e-4
    )
