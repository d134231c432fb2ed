"""The selective scan of Mamba 1 (Gu and Dao, 2023) from a state.

transformers' scan, as the kernel that it stands for, always begins with zeros: a prompt's second
chunk would forget the first. It is looked up by its name in the module of each model.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.nn.functional import silu, softplus

_NAME = "mamba_selective_scan"
_states: ContextVar[Iterator[torch.Tensor] | None] = ContextVar("states", default=None)


def scans_from_zeros(layer: nn.Module) -> bool:
    """Return whether a layer's forward pass calls the scan of Mamba 1."""
    code = inspect.unwrap(type(layer).forward).__code__
    return _NAME in code.co_names


def begin_scans_from_states(layer: nn.Module) -> None:
    """Let scans of the layer's module begin with the states of `scanning_from`, where there are."""
    module = sys.modules[type(layer).__module__]
    scan = getattr(module, _NAME)
    if not hasattr(scan, "from_zeros"):
        setattr(module, _NAME, _from_states(scan))


@contextmanager
def scanning_from(state: torch.Tensor | None) -> Iterator[None]:
    """Begin a layer's scans within the context with a state [1, heads, channels, size] (one scan
    for each head) or [1, channels, size]; None: with zeros."""
    if state is None:
        yield
        return
    token = _states.set(iter(state.unbind(1) if state.dim() == 4 else [state]))
    try:
        yield
    finally:
        _states.reset(token)


def _from_states(scan: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(scan)
    def scan_from_state(*args: Any, **named: Any) -> Any:
        states = _states.get()
        if states is None:
            return scan(*args, **named)
        return selective_scan(next(states), *args, **named)

    scan_from_state.from_zeros = scan  # type: ignore[attr-defined]
    return scan_from_state


def selective_scan(
    state: torch.Tensor,
    inputs: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    z: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **_: Any,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Scan inputs [1, channels, tokens] from a state [1, channels, size].

    dt, z: [1, channels, tokens]; A: [channels, size]; B, C: [1, size, tokens]; D: [channels].

    Returns outputs [1, channels, tokens], and with `return_last_state` the state after them.
    """
    if delta_bias is not None:
        dt = dt + delta_bias.to(dt.dtype)[..., None]
    if delta_softplus:
        dt = softplus(dt)
    decays = torch.exp(A[None, :, None, :] * dt[..., None])
    added = (dt * inputs).float()[..., None] * B.transpose(1, 2)[:, None].float()
    outputs = []
    for decay, new, read in zip(decays.unbind(2), added.unbind(2), C.unbind(2), strict=True):
        state = decay * state + new
        outputs.append((state.to(inputs.dtype) @ read.unsqueeze(-1)).squeeze(-1))
    output = torch.stack(outputs, dim=-1)
    if D is not None:
        output = output + inputs * D[None, :, None]
    if z is not None:
        output = output * silu(z)
    return (output, state) if return_last_state else output
