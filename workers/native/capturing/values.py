"""Know which values of a pass are which parts of which nodes: by their storages and strides."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from headrace.workers.native.capturing.tensors import distance_in_row, tensors_in
from headrace.workers.native.graph import Node, NodeKind, NotStatic, RowView, merge_dims

if TYPE_CHECKING:  # a program from the cache needs no transformers
    from transformers.modeling_utils import PreTrainedModel


class Ambiguous(Exception):
    """Another dimension has the same size as the rows."""


class TracedValues(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The values that a pass has computed from its tokens so far."""

    def __init__(self, model: "PreTrainedModel", rows: int, num_logit_rows: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rows = rows
        self._num_logit_rows = num_logit_rows
        self._nodes: list[Node] = []
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
        for value in tensors_in(args):
            start = value.untyped_storage().data_ptr()
            if start in self._values:
                return True
            if start in roots and value.dtype == torch.long:
                return self._is_lookup(args)
        return self._is_lookup(args)

    def _is_lookup(self, args: Any) -> bool:
        """Return whether these are an embedding's arguments: a parameter, then one index a row,
        alone or in a list."""
        if len(args) == 2 and isinstance(args[1], list) and len(args[1]) == 1:
            args = (args[0], *args[1])
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
                raise Ambiguous
        raise NotStatic(f"a value of shape {tuple(tensor.shape)} has no rows")

    def _view(self, tensor: torch.Tensor) -> RowView:
        """Return which part of which value a tensor is."""
        value = self._values.get(tensor.untyped_storage().data_ptr())
        if value is None:
            raise NotStatic("it reads something that was not computed from the tokens")
        node, whole, rows, inner = value
        if tensor.dtype != whole.dtype:
            raise NotStatic("it reinterprets the bits of numbers")
        offset = distance_in_row(int(tensor.storage_offset()), rows, inner)
        dims = []
        has_rows = False
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
            if size == rows and stride == inner and not has_rows:
                has_rows = True
            elif size != 1:
                dims.append((size, distance_in_row(stride, rows, inner)))
        if not has_rows:
            raise NotStatic("it mixes the rows of different tokens")
        return RowView(node, offset, merge_dims(dims))
