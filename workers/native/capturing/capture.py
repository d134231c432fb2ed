"""Capture a model's forward pass as a graph.

The pass is run on a few tokens under a dispatch mode that sees every tensor operation. Linear
layers, norms and the rotary module are recorded as whole modules. Views are not recorded: a
tensor's storage, offset and strides tell which part of which value it is. A pass whose operations
depend on the tokens themselves uses operations that are not known here, and is rejected, but for
experts and their routers, which are recorded as whole modules, too; a branch on the number of
tokens is found by capturing twice.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from headrace.workers.attention.backend import AttentionBatch, AttentionOptions
from headrace.workers.native.activations import find_activation
from headrace.workers.native.capturing.forward_pass import ForwardPass, PassInputs, compute_logits
from headrace.workers.native.capturing.norms import Norm, find_norm
from headrace.workers.native.capturing.operator_arguments import check_arguments, single_tensor
from headrace.workers.native.experts.layers import ExpertLayers
from headrace.workers.native.graph import (
    Graph,
    Node,
    NodeKind,
    NotStatic,
    RowView,
    TableCall,
    merge_dims,
)

if TYPE_CHECKING:  # a program from the cache needs no transformers
    from transformers.modeling_utils import PreTrainedModel

    from headrace.workers.attention.hook import AttentionHook

# Numbers of rows and of logit rows to try. Two captures are needed; a number of rows that is also
# the size of another dimension is ambiguous.
_SHAPES = ((7, 3), (11, 5), (13, 5), (17, 3), (19, 5), (23, 3))
_ACTIVATIONS = {"silu", "gelu", "relu", "sigmoid", "tanh"}
# The window of attention in both directions that has none: see src/attention.h.
_NO_WINDOW = 2**31 - 1


def capture(
    model: "PreTrainedModel", hook: "AttentionHook", forward: ForwardPass = compute_logits
) -> Graph:
    """Capture the model's forward pass.

    Raises NotStatic if it is not one program for any number of tokens.
    """
    graphs: list[Graph] = []
    layers = ExpertLayers(model)
    for rows, num_logit_rows in _SHAPES:
        try:
            graphs.append(_Recorder(model, hook, layers, rows, num_logit_rows).record(forward))
        except _Ambiguous:
            continue
        if len(graphs) == 2:
            break
    else:
        raise NotStatic("its rows cannot be distinguished from its other dimensions")
    if list(graphs[0].describe()) != list(graphs[1].describe()):
        raise NotStatic("its operations depend on the number of tokens")
    return graphs[0]


class _Ambiguous(Exception):
    """Another dimension has the same size as the rows."""


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(
        self,
        model: "PreTrainedModel",
        hook: "AttentionHook",
        expert_layers: ExpertLayers,
        rows: int,
        num_logit_rows: int,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._model = model
        self._hook = hook
        self._expert_layers = expert_layers
        self._rows = rows
        self._num_logit_rows = num_logit_rows
        self._nodes: list[Node] = []
        self._tables: list[TableCall] = []
        # By storage: the node, its tensor (kept, so that no address is reused), its number of rows,
        # and the stride between rows.
        self._values: dict[int, tuple[Node, torch.Tensor, int, int]] = {}
        self._parameters = {id(p): p for p in (*model.parameters(), *model.buffers())}
        self._depth = 0
        device = model.device
        self._token_ids = torch.arange(1, rows + 1, device=device).unsqueeze(0)
        self._positions = torch.arange(3, rows + 3, device=device).unsqueeze(0)
        num_types = getattr(model.config, "type_vocab_size", 0) or 1
        self._token_types = (torch.arange(rows, device=device) % num_types).unsqueeze(0)
        self._logit_rows = torch.arange(0, num_logit_rows, device=device)

    def record(self, forward: ForwardPass) -> Graph:
        inputs = PassInputs(self._token_ids, self._positions, self._token_types, self._logit_rows)
        self._hook.backend = self
        try:
            with torch.inference_mode(), self._whole_modules_patched(), self:
                result = forward(self._model, inputs)
        finally:
            self._hook.backend = None
        output = self._view(result)
        if not output.is_whole:
            raise NotStatic("its result is not the value of the last operation")
        return Graph(tuple(self._nodes), output.node, tuple(self._tables))

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
        rows, heads, key_dim = query.shape
        kv_heads, value_dim = value.shape[1:]
        window = options.window or 0
        if not options.is_causal:
            window = -(window or _NO_WINDOW)
        data = {
            "layer": layer, "heads": heads, "kv_heads": kv_heads, "key_dim": key_dim,
            "value_dim": value_dim, "scaling": float(options.scaling),
            "window": window, "softcap": float(options.softcap or 0.0),
            "sinks": options.sinks, "bias": options.bias,
        }  # fmt: skip
        with self._paused():
            output = query.new_zeros((rows, heads, value_dim))
        inputs = (self._view(query), self._view(key), self._view(value))
        self._add("attend", inputs, output, data)
        return output

    # Modules that are recorded as a whole.

    @contextmanager
    def _whole_modules_patched(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module in self._model.modules():
                forward = self._replacement(module)
                if forward is not None:
                    stack.enter_context(_patched(module, forward))
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
        if _depends_on_positions(module):
            return lambda *args, **kwargs: self._table(module, args, kwargs)
        return None

    @staticmethod
    def _for_single_tensor(
        record: Callable[..., Any], module: torch.nn.Module, *details: Any
    ) -> Callable[..., Any]:
        """Return a forward function that records a module which is called with one tensor."""
        return lambda *args, **kwargs: record(module, *details, single_tensor(module, args, kwargs))

    def _linear(self, module: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        source = self._view(x)
        with self._paused():  # the product is not needed, and would take the longest
            output = x.new_zeros((*x.shape[:-1], module.out_features))
        data = {"weight": module.weight, "bias": module.bias, "transposed": False}
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
        elif self._depth == 0 and self._any_traced(args) and not _shares_storage(output, args):
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

    _record_clone = _record__to_copy

    def _record_index(self, args: Any, output: torch.Tensor) -> None:
        chosen = [index for index in args[1] if index is not None]
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

    # Storages and views.

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Record nothing meanwhile."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def _is_traced(self, value: Any) -> bool:
        return (
            isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() in self._values
        )

    def _any_traced(self, args: Any) -> bool:
        """Return whether an argument is a token, a position or a value computed from them."""
        roots = {
            tensor.untyped_storage().data_ptr()
            for tensor in (self._token_ids, self._positions, self._token_types)
        }
        for value in _tensors(args):
            start = value.untyped_storage().data_ptr()
            if start in self._values:
                return True
            if start in roots and value.dtype == torch.long:
                return self._is_lookup(args)
        return self._is_lookup(args)

    def _is_lookup(self, args: Any) -> bool:
        """Return whether these are an embedding's arguments: a parameter, then one index a row."""
        return (
            len(args) >= 2
            and id(args[0]) in self._parameters
            and isinstance(args[1], torch.Tensor)
            and args[1].dtype == torch.long
            and args[1].numel() == self._rows
        )

    def _add(
        self,
        kind: NodeKind,
        inputs: tuple[RowView, ...],
        output: torch.Tensor,
        data: dict[str, Any],
    ) -> None:
        rows, inner = self._row_layout(output)
        node = Node(kind, inputs, output.numel() // rows, rows == self._num_logit_rows, data)
        self._nodes.append(node)
        self._values[output.untyped_storage().data_ptr()] = (node, output, rows, inner)

    def _row_layout(self, tensor: torch.Tensor) -> tuple[int, int]:
        """Return the number of rows of a new value and the stride between them."""
        for rows in (self._rows, self._num_logit_rows):
            strides = [
                stride
                for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
                if size == rows
            ]
            if len(strides) == 1:
                return rows, strides[0]
            if strides:
                raise _Ambiguous
        raise NotStatic(f"a value of shape {tuple(tensor.shape)} has no rows")

    def _view(self, tensor: torch.Tensor) -> RowView:
        """Return which part of which value a tensor is."""
        value = self._values.get(tensor.untyped_storage().data_ptr())
        if value is None:
            raise NotStatic("it reads something that was not computed from the tokens")
        node, whole, rows, inner = value
        if tensor.dtype != whole.dtype:
            raise NotStatic("it reinterprets the bits of numbers")
        offset = _in_row(int(tensor.storage_offset()), rows, inner)
        dims = []
        has_rows = False
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
            if size == rows and stride == inner and not has_rows:
                has_rows = True
            elif size != 1:
                dims.append((size, _in_row(stride, rows, inner)))
        if not has_rows:
            raise NotStatic("it mixes the rows of different tokens")
        return RowView(node, offset, merge_dims(dims))


def _in_row(distance: int, rows: int, inner: int) -> int:
    """Convert a distance in storage [outer, rows, inner] to one in a row [outer, inner]."""
    outer, remainder = divmod(distance, rows * inner)
    if remainder >= inner and inner > 0:
        raise NotStatic("it mixes the rows of different tokens")
    return outer * inner + remainder


def _tensors(args: Any) -> Iterator[torch.Tensor]:
    for value in args:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _shares_storage(outputs: Any, args: Any) -> bool:
    """Return whether several outputs are all views of one of the arguments (a split)."""
    if not isinstance(outputs, list | tuple):
        return False
    starts = {value.untyped_storage().data_ptr() for value in _tensors(args)}
    return all(output.untyped_storage().data_ptr() in starts for output in _tensors(outputs))


def _depends_on_positions(module: torch.nn.Module) -> bool:
    """Return whether a module computes tables from positions: it has no weights and takes
    `position_ids`."""
    if any(True for _ in module.parameters()) or any(True for _ in module.children()):
        return False
    return "position_ids" in inspect.signature(module.forward).parameters


@contextmanager
def _patched(module: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
