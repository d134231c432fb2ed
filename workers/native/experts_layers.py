"""Find a model's layers of experts and their routers."""

import torch

from headrace.workers.native.experts import Experts, find_experts, is_stacked
from headrace.workers.native.experts_routing import Routing, find_routing, is_router
from headrace.workers.native.graph import NotStatic


class ExpertLayers:
    """A model's experts and routers, and what they compute."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._experts: dict[torch.nn.Module, Experts | None] = {}
        self._routings: dict[torch.nn.Module, Routing | None] = {}
        for parent in model.modules():
            children = list(parent.children())
            for module in (child for child in children if is_stacked(child)):
                self._experts[module] = find_experts(module)
                number = len(module.gate_up_proj)  # type: ignore[arg-type]
                for router in (child for child in children if is_router(child, number)):
                    self._routings[router] = find_routing(router)

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
