"""Capture a model's forward pass as a graph.

The pass is run on a few tokens under a dispatch mode that sees every tensor operation. Linear
layers, norms and the rotary module are recorded as whole modules. Views are not recorded: a
tensor's storage, offset and strides tell which part of which value it is. A pass whose operations
depend on the tokens themselves uses operations that are not known here, and is rejected, but for
experts and their routers, which are recorded as whole modules, too; a branch on the number of
tokens is found by capturing twice.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from headrace.workers.attention.backend import AttentionBatch, AttentionOptions
from headrace.workers.native.activations import find_activation
from headrace.workers.native.capturing.forward_pass import ForwardPass, PassInputs, compute_logits
from headrace.workers.native.capturing.norms import Norm, find_norm
from headrace.workers.native.capturing.operator_arguments import check_arguments, single_tensor
from headrace.workers.native.capturing.tensors import (
    depends_on_positions,
    patched,
    shares_storage,
)
from headrace.workers.native.capturing.values import Ambiguous, TracedValues
from headrace.workers.native.experts.layers import ExpertLayers
from headrace.workers.native.graph import (
    Graph,
    Node,
    NotStatic,
    RowView,
    TableCall,
)
from headrace.workers.native.instructions import CacheKind

if TYPE_CHECKING:  # a program from the cache needs no transformers
    from transformers.modeling_utils import PreTrainedModel

    from headrace.workers.attention.hook import AttentionHook

# Numbers of rows and of logit rows to try. Two captures are needed; a number of rows that is also
# the size of another dimension is ambiguous.
_SHAPES = ((7, 3), (11, 5), (13, 5), (17, 3), (19, 5), (23, 3))
_ACTIVATIONS = {"silu", "gelu", "relu", "sigmoid", "tanh"}
_SOURCE_POSITIONS = 2  # of an encoder's vectors, of which only the size matters
# The window of attention in both directions that has none: see src/attention.h.
_NO_WINDOW = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a pass has besides tokens.

    features: how many numbers come with each row; 0: none.
    source: the size of an encoder's vectors; 0: there is no encoder.
    cache: where keys and values of the pass's own rows lie.
    scored: by layer, the place of each head's scores among those that a step may ask for, or -1.
    """

    features: int = 0
    source: int = 0
    cache: CacheKind = CacheKind.OWN
    scored: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


_NOTHING = Surroundings()


def capture(
    model: "PreTrainedModel",
    hook: "AttentionHook",
    forward: ForwardPass = compute_logits,
    around: Surroundings = _NOTHING,
) -> Graph:
    """Capture the model's forward pass.

    Raises NotStatic if it is not one program for any number of tokens.
    """
    graphs: list[Graph] = []
    layers = ExpertLayers(model)
    for rows, num_logit_rows in _SHAPES:
        try:
            recorder = _Recorder(model, hook, layers, rows, num_logit_rows, around)
            graphs.append(recorder.record(forward))
        except Ambiguous:
            continue
        if len(graphs) == 2:
            break
    else:
        raise NotStatic("its rows cannot be distinguished from its other dimensions")
    if list(graphs[0].describe()) != list(graphs[1].describe()):
        raise NotStatic("its operations depend on the number of tokens")
    return graphs[0]


class _Recorder(TracedValues):  # type: ignore[no-untyped-call]
    def __init__(
        self,
        model: "PreTrainedModel",
        hook: "AttentionHook",
        expert_layers: ExpertLayers,
        rows: int,
        num_logit_rows: int,
        around: Surroundings,
    ) -> None:
        super().__init__(model, rows, num_logit_rows)
        self._around = around
        self._model = model
        self._hook = hook
        self._expert_layers = expert_layers
        self._tables: list[TableCall] = []
        # By storage, what was computed of an encoder's vectors alone (kept, as in `_values`).
        self._sources: dict[int, torch.Tensor] = {}

    def record(self, forward: ForwardPass) -> Graph:
        inputs = PassInputs(
            self._token_ids, self._positions, self._token_types, self._logit_rows,
            self._features(), self._source(),
        )  # fmt: skip
        self._hook.backend = self
        try:
            with torch.inference_mode(), self._whole_modules_patched(), self:
                result = forward(self._model, inputs)
        finally:
            self._hook.backend = None
        if result is None:
            return Graph(tuple(self._nodes), None, tuple(self._tables))
        output = self._view(result)
        if not output.is_whole:
            raise NotStatic("its result is not the value of the last operation")
        return Graph(tuple(self._nodes), output.node, tuple(self._tables))

    def _features(self) -> torch.Tensor | None:
        """Return the numbers that come with the rows, as values of the graph."""
        if not self._around.features:
            return None
        shape = (1, self._rows, self._around.features)
        features = torch.zeros(shape, dtype=self._model.dtype, device=self._model.device)
        self._add("embedding", (), features, {"weight": None, "by": "features", "offset": 0})
        return features

    def _source(self) -> torch.Tensor | None:
        if not self._around.source:
            return None
        shape = (1, _SOURCE_POSITIONS, self._around.source)
        source = torch.zeros(shape, dtype=self._model.dtype, device=self._model.device)
        self._sources[source.untyped_storage().data_ptr()] = source
        return source

    # The attention hook calls these; see headrace.workers.attention.backend.AttentionBackend.

    def prepare(self, batch: AttentionBatch) -> None: ...

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None: ...

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        options: AttentionOptions,
    ) -> torch.Tensor:
        for lacks, name in (
            (options.chunk, "attention in chunks"),
            (options.key_bias, "biases of scores by position"),
            (options.sparse, "attention to chosen keys"),
        ):
            if lacks is not None:
                raise NotStatic(f"the kernels lack {name}")
        rows, heads, key_dim = query.shape
        kv_heads, value_dim = value.shape[1:]
        window = options.window or 0
        if not options.is_causal:
            window = -(window or _NO_WINDOW)
        data: dict[str, Any] = {
            "layer": layer, "heads": heads, "kv_heads": kv_heads, "key_dim": key_dim,
            "value_dim": value_dim, "scaling": float(options.scaling),
            "window": window, "softcap": float(options.softcap or 0.0),
            "sinks": options.sinks, "bias": options.bias, "cache": int(self._around.cache),
        }  # fmt: skip
        with self._paused():
            output = query.new_zeros((rows, heads, value_dim))
        inputs: tuple[RowView, ...] = (self._view(query),)
        if options.reads_source:
            data["cache"] = int(CacheKind.SOURCE)
            data["scored"] = self._around.scored.get(layer, ())
        else:
            inputs += (self._view(key), self._view(value))
        self._add("attend", inputs, output, data)
        return output

    def store(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Record that rows' keys [rows, kv_heads, key_dim] and values are kept for a decoder."""
        kv_heads, key_dim = key.shape[1:]
        data = {"layer": layer, "kv_heads": kv_heads, "key_dim": key_dim}
        data |= {"value_dim": value.shape[2]}
        self._nodes.append(Node("store", (self._view(key), self._view(value)), 0, False, data))

    # Modules that are recorded as a whole.

    @contextmanager
    def _whole_modules_patched(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module in self._model.modules():
                forward = self._replacement(module)
                if forward is not None:
                    stack.enter_context(patched(module, forward))
            yield

    def _replacement(self, module: torch.nn.Module) -> Callable[..., Any] | None:
        if self._expert_layers.is_router(module):
            return lambda *args, **kwargs: self._route(module, [*args, *kwargs.values()])
        if self._expert_layers.has_experts(module):
            return lambda *args, **kwargs: self._experts(module, [*args, *kwargs.values()])
        if type(module) is torch.nn.Linear:
            return self._for_single_tensor(self._linear, module)
        norm = find_norm(module)
        if norm is not None:
            return self._for_single_tensor(self._norm, module, norm)
        function = find_activation(module)
        if function is not None:
            return self._for_single_tensor(self._activation, module, function)
        if depends_on_positions(module):
            return lambda *args, **kwargs: self._table(module, args, kwargs)
        return None

    @staticmethod
    def _for_single_tensor(
        record: Callable[..., Any], module: torch.nn.Module, *details: Any
    ) -> Callable[..., Any]:
        """Return a forward function that records a module which is called with one tensor."""
        return lambda *args, **kwargs: record(module, *details, single_tensor(module, args, kwargs))

    def _linear(self, module: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        with self._paused():  # the product is not needed, and would take the longest
            output = x.new_zeros((*x.shape[:-1], module.out_features))
        if x.untyped_storage().data_ptr() in self._sources:
            self._sources[output.untyped_storage().data_ptr()] = output
            return output
        source = self._view(x)
        data = {"weight": module.weight, "bias": module.bias, "transposed": False}
        if getattr(module, "is_exact", False):
            data["exact"] = True
        self._add("linear", (source,), output, data)
        return output

    def _norm(self, module: torch.nn.Module, norm: Norm, x: torch.Tensor) -> torch.Tensor:
        source = self._view(x)
        with self._paused():
            output: torch.Tensor = type(module).forward(module, x)
        data = {"norm": module, "size": x.shape[-1], "eps": norm.eps, "centred": norm.centred}
        data |= {"weight": norm.weight, "bias": norm.bias, "plus_one": norm.plus_one}
        self._add("norm", (source,), output, data)
        return output

    def _activation(self, module: torch.nn.Module, function: str, x: torch.Tensor) -> torch.Tensor:
        source = self._view(x)
        with self._paused():
            output: torch.Tensor = type(module).forward(module, x)
        self._add("activation", (source,), output, {"function": function})
        return output

    def _route(self, module: torch.nn.Module, values: list[torch.Tensor]) -> Any:
        """Record a router, called with rows and vectors."""
        x, *given = values
        routing = self._expert_layers.routing(module)
        rows, kind = x.numel() // x.shape[-1], routing.kind
        with self._paused():
            logits = x.new_zeros((rows, len(routing.weight)), dtype=torch.float32)
            weights = logits.new_zeros((rows, kind.count))
            chosen = logits.new_zeros((rows, kind.count), dtype=torch.long)
        bias, choice_bias = (routing.vector(use, given) for use in ("bias", "choice"))
        linear = {"weight": routing.weight, "bias": bias, "transposed": False, "exact": True}
        self._add("linear", (self._view(x),), logits, linear)
        route = {"kind": kind, "choice_bias": choice_bias, "experts": len(routing.weight)}
        self._add("route", (self._view(logits),), weights, route)
        self._add("chosen", (self._view(weights),), chosen, {})
        return logits, weights, chosen

    def _experts(self, module: torch.nn.Module, values: list[torch.Tensor]) -> torch.Tensor:
        """Record experts, called with rows, chosen experts and weights."""
        x, *others = values
        experts = self._expert_layers.experts(module)
        views = [self._view(value) for value in others]
        views.sort(key=lambda view: view.node.kind == "chosen")
        if len(views) != 2 or views[1].node.kind != "chosen":
            raise NotStatic(
                f"it calls {type(module).__name__} with more than rows and their routes"
            )
        with self._paused():
            output = x.new_zeros(x.shape)
        self._add("experts", (self._view(x), *views), output, {"experts": experts})
        return output

    def _table(self, module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        with self._paused():
            outputs = type(module).forward(module, *args, **kwargs)
        call = TableCall(module, args, kwargs)
        self._tables.append(call)
        for index, output in enumerate(outputs):
            data = {"call": len(self._tables) - 1, "output": index}
            self._add("table", (), output, data)
        return outputs

    # All other operations.

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if self._depth == 0 and isinstance(output, torch.Tensor):
            self._record(func, args, kwargs or {}, output)
        elif self._depth == 0 and self._any_traced(args) and not shares_storage(output, args):
            raise NotStatic(f"it uses {func}")
        return output

    def _record(self, func: Any, args: Any, kwargs: Any, output: torch.Tensor) -> None:
        if not self._any_traced((*args, *kwargs.values())):
            return  # does not depend on any token
        name = func.overloadpacket.__name__
        if name == "new_empty":
            return  # without values
        if name == "copy_":
            check_arguments(func, args, kwargs)
            return self._record_part(*args[:2])
        if func._schema.is_mutable:
            raise NotStatic(f"it modifies values in place: {func}")
        if output.untyped_storage().data_ptr() in self._values:
            return  # a view
        check_arguments(func, args, kwargs)
        if name in _ACTIVATIONS:
            kind = name
            if name == "gelu" and kwargs.get("approximate", "none") == "tanh":
                kind = "gelu_tanh"
            self._add("activation", (self._view(args[0]),), output, {"function": kind})
        else:
            getattr(self, f"_record_{name}")(args, output)

    def _record_embedding(self, args: Any, output: torch.Tensor) -> None:
        weight, indices = args[0], args[1].flatten()
        data = {"weight": weight, "by": "tokens", "offset": 0}
        if torch.equal(indices, self._token_types[0]):
            data["by"] = "types"
        elif not torch.equal(indices, self._token_ids[0]):
            offsets = set((indices - self._positions[0]).tolist())
            if len(offsets) != 1:
                raise NotStatic("it looks up something other than tokens, positions or types")
            data |= {"by": "positions", "offset": offsets.pop()}
        self._add("embedding", (), output, data)

    def _record_addmm(self, args: Any, output: torch.Tensor) -> None:
        bias, x, weight = args[:3]
        if id(weight) not in self._parameters or id(bias) not in self._parameters:
            raise NotStatic("it multiplies values by each other")
        data = {"weight": weight, "bias": bias, "transposed": True}
        self._add("linear", (self._view(x),), output, data)

    def _record__to_copy(self, args: Any, output: torch.Tensor) -> None:
        if not output.is_floating_point():
            raise NotStatic("it rounds values to integers")
        self._add("copy", (self._view(args[0]),), output, {})

    _record_clone = _record_contiguous = _record__to_copy

    def _record_index(self, args: Any, output: torch.Tensor) -> None:
        chosen = [index for index in args[1] if index is not None]
        if self._is_lookup((args[0], *chosen)):
            return self._record_embedding((args[0], *chosen), output)
        if len(chosen) != 1 or not torch.equal(chosen[0], self._logit_rows):
            raise NotStatic("it indexes by something other than the rows whose logits are needed")
        self._add("gather", (self._view(args[0]),), output, {})

    def _record_neg(self, args: Any, output: torch.Tensor) -> None:
        self._add("scale", (self._view(args[0]),), output, {"factor": -1.0})

    def _record_cat(self, args: Any, output: torch.Tensor) -> None:
        dim = args[1] if len(args) > 1 else 0
        if dim not in (-1, output.ndim - 1):
            raise NotStatic("it concatenates values along a dimension other than the last")
        parts = tuple(self._view(part) for part in args[0] if part.numel())
        self._add("cat" if len(parts) > 1 else "copy", parts, output, {})

    def _record_div(self, args: Any, output: torch.Tensor) -> None:
        self._add_scale(args[0], args[1], output, lambda factor: 1.0 / factor)

    def _record_mul(self, args: Any, output: torch.Tensor) -> None:
        first, second = args[:2]
        if self._is_traced(second) and not self._is_traced(first):
            first, second = second, first
        if self._is_traced(second):
            self._add("mul", (self._view(first), self._view(second)), output, {})
        else:
            self._add_scale(first, second, output, lambda factor: factor)

    def _record_add(self, args: Any, output: torch.Tensor) -> None:
        if not (self._is_traced(args[0]) and self._is_traced(args[1])):
            raise NotStatic("it adds a constant")
        self._add("add", (self._view(args[0]), self._view(args[1])), output, {})

    def _record_sub(self, args: Any, output: torch.Tensor) -> None:
        if not (self._is_traced(args[0]) and self._is_traced(args[1])):
            raise NotStatic("it subtracts a constant")
        self._add("sub", (self._view(args[0]), self._view(args[1])), output, {})

    def _record_part(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Record a copy to a part of new memory, whose value has one node for all its parts."""
        start = target.untyped_storage().data_ptr()
        if start not in self._values:
            rows, inner = self._row_layout(target)
            width = target.untyped_storage().nbytes() // target.element_size() // rows
            node = Node("assemble", (), width, rows == self._num_logit_rows, {"targets": ()})
            self._values[start] = (node, target, rows, inner)
            self._nodes.append(node)
        part = self._view(target)
        node = part.node
        if node.kind != "assemble" or any(node in (v.node for v in n.inputs) for n in self._nodes):
            raise NotStatic("it modifies values in place by copies")
        self._nodes.remove(node)
        self._nodes.append(node)  # after what it reads
        node.inputs = (*node.inputs, self._view(source))
        node.data["targets"] = (*node.data["targets"], (part.offset, part.dims))

    def _add_scale(
        self, x: Any, factor: Any, output: torch.Tensor, change: Callable[[float], float]
    ) -> None:
        if not self._is_traced(x) or (isinstance(factor, torch.Tensor) and factor.numel() != 1):
            raise NotStatic("it scales by more than one number")
        with self._paused():
            number = float(factor)
        self._add("scale", (self._view(x),), output, {"factor": change(number)})
