"""Find out how a router chooses experts and weighs them, by trying it.

A router computes a logit for each expert and returns (logits, weights, chosen experts). The trial
runs its own forward with random weights and biases, in float32.
"""

import copy
import inspect
import itertools
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from headrace.workers.native.graph import NotStatic

_ROWS = 32  # of a trial
_ERRORS = (TypeError, ValueError, RuntimeError, IndexError, AttributeError)


@dataclass(frozen=True, slots=True)
class RoutingKind:
    """How experts follow from logits: the best `count` scores are chosen.

    sigmoid: whether scores are sigmoids of the logits; else the softmax over all experts.
    normalized: whether the weights, which are the chosen scores, are divided by their sum.
    groups, kept_groups: experts form groups of equal size; only those of the best groups are
        considered.
    two_best: whether a group is as good as its two best scores together; else as its best one.
    factor: of the weights.
    """

    count: int
    sigmoid: bool = False
    normalized: bool = False
    groups: int = 1
    kept_groups: int = 1
    two_best: bool = False
    factor: float = 1.0

    def weights(self, logits: torch.Tensor, choice_bias: torch.Tensor | None) -> torch.Tensor:
        """Return the weights [rows, experts], 0 where an expert is not chosen.

        choice_bias: [experts], added to the scores for the choice alone.
        """
        scores = logits.sigmoid() if self.sigmoid else logits.softmax(-1)
        choice = scores if choice_bias is None else scores + choice_bias
        if self.kept_groups < self.groups:
            grouped = choice.view(len(choice), self.groups, -1)
            best = grouped.topk(2 if self.two_best else 1, -1).values.sum(-1)
            kept = torch.zeros_like(best, dtype=torch.bool)
            kept.scatter_(1, best.topk(self.kept_groups, -1).indices, True)
            choice = grouped.masked_fill(~kept[..., None], -torch.inf).flatten(1)
        chosen = choice.topk(self.count, -1).indices
        found = torch.zeros_like(scores).scatter(1, chosen, scores.gather(1, chosen))
        if self.normalized:
            found = found / found.sum(-1, keepdim=True)
        return found * self.factor


@dataclass(frozen=True, slots=True)
class Routing:
    """A router of one layer.

    weight: [experts, hidden].
    uses: what its own vectors, and then those that it is called with, are used for: "bias" (of the
        logits), "choice" (see `RoutingKind.weights`) or nothing.
    """

    kind: RoutingKind
    weight: torch.Tensor
    vectors: tuple[torch.Tensor, ...]
    uses: tuple[str, ...]

    def vector(self, use: str, given: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """Return the vector of this use, or None; the router is called with those `given`."""
        values = [*self.vectors, *(value.flatten() for value in given)]
        if len(values) != len(self.uses):
            raise NotStatic("it calls a router with another number of vectors than it declares")
        return values[self.uses.index(use)] if use in self.uses else None


RoutingUse = tuple[RoutingKind, tuple[str, ...]]  # with the uses of its vectors


def is_router(module: torch.nn.Module, num_experts: int) -> bool:
    """Return whether a module has one matrix with a row for each expert, and no other."""
    matrices = [p for p in module.parameters() if p.ndim > 1 and p.numel() != num_experts]
    return len(matrices) == 1 and matrices[0].ndim == 2 and len(matrices[0]) == num_experts


def find_routing(
    module: torch.nn.Module, tried: dict[Hashable, RoutingUse | None] | None = None
) -> Routing | None:
    """Return how a router routes; None if it is not known.

    tried: what trials of a model's routers have found, by their traits; is added to.
    """
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    matrix = next(name for name, value in named.items() if value.ndim == 2 and len(value) > 1)
    num_experts = len(named[matrix])
    vectors = [name for name, value in named.items() if value.numel() == num_experts]
    tried, key = {} if tried is None else tried, traits(module)
    if key not in tried:
        declared = inspect.signature(module.forward).parameters.values()
        needed = [parameter for parameter in declared if parameter.default is parameter.empty]
        tried[key] = _Trial(module, matrix, vectors, len(needed) - 1).find()
    found = tried[key]
    if found is None:
        return None
    kind, uses = found
    return Routing(kind, named[matrix], tuple(named[name].flatten() for name in vectors), uses)


def traits(module: torch.nn.Module) -> Hashable:
    """Return what tells apart modules that compute different things with the same weights."""
    own = {k: v for k, v in vars(module).items() if isinstance(v, bool | int | float | str)}
    tensors = (*module.named_parameters(), *module.named_buffers())
    shapes = tuple((name, tuple(value.shape)) for name, value in tensors)
    return type(module), tuple(own.items()), tuple(map(type, module.children())), shapes


class _Trial:
    """A router's outputs for random rows.

    matrix: the name of its weight. vectors: the names of those with a number for each expert.
    """

    def __init__(
        self, module: torch.nn.Module, matrix: str, vectors: list[str], num_given: int
    ) -> None:
        self._module = module
        generator = torch.Generator().manual_seed(0)
        tried = copy.deepcopy(module).float()
        named = {**dict(tried.named_parameters()), **dict(tried.named_buffers())}
        weight = named[matrix]
        weight.data = 2 * torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5
        self._rows = torch.randn((_ROWS, weight.shape[1]), generator=generator)
        self._logits = self._rows @ weight.data.t()
        # Of another size for each: scores are below 1, so a large vector would choose alone.
        self._vectors = []
        for name in vectors:
            values = 0.3 * torch.randn(len(weight), generator=generator)
            named[name].data = values.view(named[name].shape)
            self._vectors.append(values)
        given = [0.3 * torch.randn(len(weight), generator=generator) for _ in range(num_given)]
        self._vectors += given
        self._outputs = self._run(tried, given)

    def find(self) -> RoutingUse | None:
        """Return the kind that gives the same, and the use of each vector."""
        if self._outputs is None:
            return None
        weights, count = self._outputs
        for uses in itertools.product(("choice", "bias", ""), repeat=len(self._vectors)):
            if len(set(uses) - {""}) < len([use for use in uses if use]):
                continue
            roles = dict(zip(uses, self._vectors, strict=True))
            logits = self._logits + roles.get("bias", torch.zeros(()))
            for kind in self._kinds(count):
                ours = kind.weights(logits, roles.get("choice"))
                factor = float(weights.sum() / ours.sum())
                if torch.allclose(ours * factor, weights, rtol=1e-4, atol=1e-6):
                    return replace(kind, factor=self._exact(factor)), uses
        return None

    def _kinds(self, count: int) -> Iterator[RoutingKind]:
        num_groups = getattr(self._module, "num_group", getattr(self._module, "n_group", None))
        groups = [(1, 1)]
        kept = getattr(self._module, "topk_group", None)
        if num_groups and kept and num_groups > kept:
            groups.insert(0, (num_groups, kept))
        for (number, best), two_best, sigmoid, normalized in itertools.product(
            groups, (True, False), (False, True), (True, False)
        ):
            if number > 1 or not two_best:
                yield RoutingKind(count, sigmoid, normalized, number, best, two_best)

    def _exact(self, factor: float) -> float:
        """Return the module's own number that is this factor but for rounding, if there is one."""
        numbers = [v for v in vars(self._module).values() if isinstance(v, int | float)]
        return next((float(n) for n in (1.0, *numbers) if abs(n / factor - 1) < 1e-4), factor)

    @torch.inference_mode()
    def _run(
        self, tried: torch.nn.Module, given: list[torch.Tensor]
    ) -> tuple[torch.Tensor, int] | None:
        """Return the weights [rows, experts] and the number of chosen experts."""
        try:
            outputs: Any = tried(self._rows, *given)
            _, weights, chosen = outputs
            found = torch.zeros(self._logits.shape).scatter_(1, chosen, weights.float())
        except _ERRORS:
            return None
        return found, chosen.shape[1]
