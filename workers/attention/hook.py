"""The function that transformers' models call for attention, and what it finds out about them.

transformers hands every attention layer's query, key and value to a function looked up by name.
Ours runs paged attention. No masks are built for it: transformers makes them only for names that
it has a mask function for. Which layers there are, and what they cache, is learnt from a probe, so
that nothing is guessed from a model's configuration.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

from headrace.workers.attention.backend import AttentionBackend, AttentionOptions, KVLayerShape
from headrace.workers.errors import ModelUnsupported

_numbers = itertools.count()
_HARMLESS_TENSORS = frozenset({"position_ids", "cache_position"})


class AttentionHook:
    """Stands for the attention of one model, under a name of its own in transformers' registry.

    layers, options, heads: what the probe saw, in the order in which the layers are called; heads
        are those of the queries.
    """

    def __init__(self) -> None:
        self.name = f"headrace_paged_{next(_numbers)}"
        self.layers: list[KVLayerShape] = []
        self.options: list[AttentionOptions] = []
        self.heads: list[int] = []
        self.backend: AttentionBackend | None = None
        self._numbers: dict[torch.nn.Module, int] = {}
        ALL_ATTENTION_FUNCTIONS.register(self.name, self._attend)

    def probe(self, model: PreTrainedModel) -> None:
        """Learn the model's attention layers from a forward of two tokens.

        ModelUnsupported if it has none that come here, or some that need what we do not give.
        """
        model.set_attn_implementation(self.name)
        token_ids = torch.zeros((1, 2), dtype=torch.long, device=model.device)
        model(input_ids=token_ids, position_ids=token_ids, use_cache=False)
        if not self.layers:
            raise ModelUnsupported(
                f"{type(model).__name__} does not do its attention through transformers' "
                "attention interface"
            )
        self._check_layer_types(model)

    def _check_layer_types(self, model: PreTrainedModel) -> None:
        """ModelUnsupported if a layer that is local by configuration did not say so when called.

        Its window would be in a mask only, and no short text shows that it is missing.
        """
        types = getattr(model.config.get_text_config(), "layer_types", None) or []
        if len(types) != len(self.options):
            return
        for number, (kind, options) in enumerate(zip(types, self.options, strict=True)):
            if kind != "full_attention" and options.window is None:
                raise ModelUnsupported(f"layer {number} has {kind}, which paged attention lacks")

    def _attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **others: Any,
    ) -> tuple[torch.Tensor, None]:
        """query [1, heads, rows, dim], key and value [1, kv_heads, rows, dim] → [1, rows, ...]."""
        if scaling is None:
            scaling = query.shape[-1] ** -0.5
        options = AttentionOptions(scaling, sliding_window, softcap)
        if self.backend is None:
            _check_call(module, query, key, attention_mask, others)
            return self._probe_layer(module, query, key, value, options), None
        layer = self._numbers[module]
        rows_query = query[0].transpose(0, 1)
        rows_key = key[0].transpose(0, 1)
        rows_value = value[0].transpose(0, 1)
        self.backend.write(layer, rows_key, rows_value)
        output = self.backend.attend(layer, rows_query, rows_key, rows_value, options)
        return output.unsqueeze(0), None

    def _probe_layer(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        options: AttentionOptions,
    ) -> torch.Tensor:
        if module in self._numbers:
            raise ModelUnsupported("an attention layer is used twice in one forward pass")
        self._numbers[module] = len(self.layers)
        self.layers.append(KVLayerShape(key.shape[1], key.shape[3], value.shape[3]))
        self.options.append(options)
        _, heads, rows, _ = query.shape
        self.heads.append(heads)
        return query.new_zeros((1, rows, heads, value.shape[3]))


@contextmanager
def attention_of(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Run the model with another attention implementation of the registry for a while."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _check_call(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    attention_mask: torch.Tensor | None,
    others: dict[str, Any],
) -> None:
    """ModelUnsupported for attention that is not plain causal self-attention."""
    if not getattr(module, "is_causal", True) or others.get("is_causal") is False:
        raise ModelUnsupported("its attention is not causal")
    if query.shape[2] != key.shape[2]:
        raise ModelUnsupported("it attends to something other than its own tokens")
    if attention_mask is not None:
        raise ModelUnsupported("its attention needs a mask of its own")
    for name, value in others.items():
        if isinstance(value, torch.Tensor) and name not in _HARMLESS_TENSORS:
            raise ModelUnsupported(f"its attention needs {name}, which paged attention lacks")


def vocab_rows(model: PreTrainedModel) -> int:
    """Rows of the model's embedding: token ids are below it."""
    return cast(torch.Tensor, model.get_input_embeddings().weight).shape[0]
