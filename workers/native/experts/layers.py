"""Find a model's experts and what they compute, by trying them: class names say little.

transformers keeps the weights of a layer's experts in tensors of three dimensions. The trial runs
the module's own forward with small random weights for two experts.
"""

import copy
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from headrace.workers.native.activations import ACTIVATIONS
from headrace.workers.native.experts.routing import (
    Routing,
    RoutingUse,
    find_routing,
    is_router,
    traits,
)
from headrace.workers.native.experts.stacked_weights import Layout, StackedWeights
from headrace.workers.native.graph import NotStatic

_GATE_UP, _DOWN = "gate_up_proj", "down_proj"
_NAMES = {_GATE_UP, _DOWN, f"{_GATE_UP}_bias", f"{_DOWN}_bias"}
_ROWS, _HIDDEN, _INNER = 16, 16, 8  # of a trial; torch wants whole 16 bytes


@dataclass(frozen=True, slots=True)
class Gate:
    """What experts do with a gate and its partner.

    function: an activation of the gate, by which the partner is multiplied.
    alpha, limit: if limit is not 0, both are clamped to it, and the product is
        (partner + 1) * gate * sigmoid(alpha * gate).
    """

    function: str
    alpha: float = 0.0
    limit: float = 0.0

    def apply(self, gate: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
        """Compute the product of a gate and its partner."""
        if not self.limit:
            return ACTIVATIONS[self.function](gate) * partner
        gate, partner = gate.clamp(max=self.limit), partner.clamp(-self.limit, self.limit)
        return (partner + 1) * gate * torch.sigmoid(self.alpha * gate)


@dataclass(frozen=True, slots=True)
class Experts:
    """The experts of one layer: down(gate of (x @ gate, x @ partner)), each plus its bias.

    gate, partner, down: of the model's parameters. Biases: likewise [experts, outputs], or None.
    """

    kind: Gate
    gate: StackedWeights
    partner: StackedWeights
    down: StackedWeights
    gate_bias: StackedWeights | None
    partner_bias: StackedWeights | None
    down_bias: StackedWeights | None


ExpertsUse = tuple[Layout, Gate]


def is_stacked(module: torch.nn.Module) -> bool:
    """Return whether a module has experts' weights in one tensor."""
    weight = getattr(module, _GATE_UP, None)
    return isinstance(weight, torch.Tensor) and weight.ndim == 3


def find_experts(
    module: torch.nn.Module, tried: dict[Hashable, ExpertsUse | None] | None = None
) -> Experts | None:
    """Return what a module with stacked weights computes; None if it is not known.

    tried: what trials of a model's experts have found, by their traits; is added to.
    """
    weights = dict(module.named_parameters())
    tried, key = {} if tried is None else tried, traits(module)
    if key not in tried:
        tried[key] = _try_experts(module, weights)
    found = tried[key]
    if found is None:
        return None
    layout, kind = found
    of_biases = Layout(transposed=False, interleaved=layout.interleaved)

    def find(name: str, layout: Layout, half: int | None = None) -> StackedWeights | None:
        return StackedWeights(weights[name], layout, half) if name in weights else None

    gate, partner = (StackedWeights(weights[_GATE_UP], layout, half) for half in (0, 1))
    biases = [find(f"{_GATE_UP}_bias", of_biases, half) for half in (0, 1)]
    biases.append(find(f"{_DOWN}_bias", of_biases))
    return Experts(kind, gate, partner, StackedWeights(weights[_DOWN], layout), *biases)


def _try_experts(module: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> ExpertsUse | None:
    if not {_GATE_UP, _DOWN} <= weights.keys() <= _NAMES:
        return None
    for layout in (Layout(t, i) for t in (False, True) for i in (False, True)):
        gate_up = StackedWeights(weights[_GATE_UP], layout).shape
        experts, hidden, inner = StackedWeights(weights[_DOWN], layout).shape
        if gate_up != (experts, 2 * inner, hidden):
            continue
        kind = next((kind for kind in _kinds(module) if _matches(module, layout, kind)), None)
        if kind is not None:
            return layout, kind
    return None


def _kinds(module: torch.nn.Module) -> Iterator[Gate]:
    for name in ACTIVATIONS:
        yield Gate(name)
    alpha, limit = (getattr(module, name, None) for name in ("alpha", "limit"))
    if isinstance(alpha, int | float) and isinstance(limit, int | float):
        yield Gate("sigmoid", float(alpha), float(limit))


@torch.inference_mode()
def _matches(module: torch.nn.Module, layout: Layout, kind: Gate) -> bool:
    """Compare the outputs of two small random experts, some of whose values exceed any limit."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    x, gate_up, down = draw(_ROWS, _HIDDEN), draw(2, 2 * _INNER, _HIDDEN), draw(2, _HIDDEN, _INNER)
    gate_up *= 3
    values = {_GATE_UP: layout.matrix(gate_up).contiguous()}
    values[_DOWN] = layout.matrix(down).contiguous()
    biases = draw(2, 2 * _INNER), draw(2, _HIDDEN)
    for name, bias in zip((f"{_GATE_UP}_bias", f"{_DOWN}_bias"), biases, strict=True):
        if name in dict(module.named_parameters()):
            values[name] = bias
        else:
            bias.zero_()
    chosen = torch.tensor([[row % 2, 1 - row % 2] for row in range(_ROWS)])
    factors = draw(_ROWS, 2)
    inner = torch.einsum("rh,eoh->ero", x, gate_up) + biases[0][:, None]
    gate, partner = layout.halves(inner.transpose(1, 2))
    products = kind.apply(gate, partner).transpose(1, 2)
    outputs = torch.einsum("eri,eoi->ero", products, down) + biases[1][:, None]
    by_expert = torch.zeros(_ROWS, 2).scatter_(1, chosen, factors)
    expected = (by_expert.t()[..., None] * outputs).sum(0)
    try:
        found = _copy_with(module, values)(x, chosen, factors)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return False  # it takes other inputs, or needs other sizes
    if not isinstance(found, torch.Tensor) or found.shape != expected.shape:
        return False
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


def _copy_with(module: torch.nn.Module, values: dict[str, torch.Tensor]) -> Any:
    """Return a copy of an experts module with two experts of these weights."""
    tried = copy.copy(module)
    tried.__dict__["_parameters"] = values
    tried.__dict__["num_experts"] = 2
    return tried


class ExpertLayers:
    """A model's experts and routers, and what they compute."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._experts: dict[torch.nn.Module, Experts | None] = {}
        self._routings: dict[torch.nn.Module, Routing | None] = {}
        tried_experts: dict[Hashable, ExpertsUse | None] = {}
        tried_routers: dict[Hashable, RoutingUse | None] = {}
        for parent in model.modules():
            children = list(parent.children())
            for module in (child for child in children if is_stacked(child)):
                self._experts[module] = find_experts(module, tried_experts)
                number = len(module.gate_up_proj)  # type: ignore[arg-type]
                for router in (child for child in children if is_router(child, number)):
                    self._routings[router] = find_routing(router, tried_routers)

    def has_experts(self, module: torch.nn.Module) -> bool:
        return module in self._experts

    def is_router(self, module: torch.nn.Module) -> bool:
        return module in self._routings

    def experts(self, module: torch.nn.Module) -> Experts:
        """Return the experts of a module. Raises NotStatic if they are not known."""
        found = self._experts[module]
        if found is None:
            raise NotStatic(f"what the experts of {type(module).__name__} compute is not known")
        return found

    def routing(self, module: torch.nn.Module) -> Routing:
        """Return the routing of a router. Raises NotStatic if it is not known."""
        found = self._routings[module]
        if found is None:
            raise NotStatic(f"how {type(module).__name__} chooses experts is not known")
        return found
