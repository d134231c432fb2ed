"""The attention function that transformers' models call, and what it learns about their layers.

transformers passes every attention layer's query, key and value to a function looked up by name.
Ours runs paged attention. transformers builds no masks for it: it does so only for names that have
a mask function. The layers and the shapes of their caches are learnt from a probe, so that nothing
is guessed from a model's configuration.
"""

import functools
import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

from headrace.workers.attention.backend import (
    AttentionBackend,
    AttentionOptions,
    KeyBias,
    KVLayerShape,
)
from headrace.workers.attention.older_models import connect_older_layers
from headrace.workers.attention.pass_options import PassOptions
from headrace.workers.attention.refusals import check_call, check_parts, failures_in_one_line
from headrace.workers.attention.rope_switch import switching_modules, tables_by_row
from headrace.workers.attention.sparse import KeyChoice, find_indexers, run_indexer, start_choice
from headrace.workers.errors import ModelUnsupported

_PREFIX = "headrace_paged_"
_numbers = itertools.count()
_hooks: "weakref.WeakValueDictionary[str, AttentionHook]" = weakref.WeakValueDictionary()
# Kinds of layers in transformers' configurations. A hybrid layer attends beside a recurrent part.
_WITHOUT_ATTENTION = frozenset({"linear_attention", "conv", "mamba", "moe", "mlp", "dummy"})
_UNBOUNDED = frozenset({"full_attention", "attention", "hybrid"})


class AttentionHook:
    """The attention of one model, under a name of its own in transformers' registry.

    allows_both_ways: whether layers may attend to later tokens, too, and whether one may be used
        several times: for sequences that run whole in one step.
    allows_sources: whether layers may attend to what an encoder has made.
    layers, options, heads: found by the probe, in the order in which the layers are called; heads
        are the numbers of query heads.
    long_rows: which rows of the step belong to sequences with the frequencies of long ones [rows];
        None: no row does. See rope_switch.
    """

    def __init__(self, *, allows_both_ways: bool = False, allows_sources: bool = False) -> None:
        self.name = f"{_PREFIX}{next(_numbers)}"
        self.layers: list[KVLayerShape] = []
        self.options: list[AttentionOptions] = []
        self.heads: list[int] = []
        self.backend: AttentionBackend | None = None
        self.long_rows: torch.Tensor | None = None
        self._allows_both_ways = allows_both_ways
        self._allows_sources = allows_sources
        self._numbers: dict[torch.nn.Module, int] = {}
        _register(self)

    def probe(
        self,
        model: PreTrainedModel,
        run: Callable[[torch.Tensor], object] | None = None,
        *,
        may_have_none: bool = False,
    ) -> None:
        """Learn the model's attention layers from a forward pass of two tokens.

        run: runs the model on token ids [1, 2]; None: as a generator of tokens.
        may_have_none: whether the model may do without attention.

        Raises ModelUnsupported if no layer calls this hook, or if one needs what paged attention
        lacks.
        """
        check_parts(model)
        connect_older_layers(model, _PREFIX)
        connect_indexers(model)
        connect_ropes(model)
        _set_attention(model, self.name)
        token_ids = torch.zeros((1, 2), dtype=torch.long, device=model.device)
        with failures_in_one_line(model, "first forward pass"):
            if run is None:
                options = PassOptions(model).of(token_ids)
                model(input_ids=token_ids, position_ids=token_ids, **options)
            else:
                run(token_ids)
        if not self.layers and not may_have_none:
            raise ModelUnsupported(
                f"{type(model).__name__} does not do its attention through transformers' "
                "attention interface"
            )
        self._check_layer_types(model)

    def _check_layer_types(self, model: PreTrainedModel) -> None:
        """Check that every layer that is local by configuration has passed its window.

        Otherwise the window would be in a mask only, and no short text would show that it is
        missing. Raises ModelUnsupported.
        """
        types = getattr(model.config.get_text_config(), "layer_types", None) or []
        types = [kind for kind in types if kind not in _WITHOUT_ATTENTION]
        layers = zip(self.layers, self.options, strict=True)
        known = [options for shape, options in layers if shape.value_dim]  # no indexers
        if len(types) != len(known):
            return
        for number, (kind, options) in enumerate(zip(types, known, strict=True)):
            limits = (options.window, options.chunk, options.sparse)
            if kind not in _UNBOUNDED and all(limit is None for limit in limits):
                raise ModelUnsupported(f"layer {number} has {kind}, which paged attention lacks")

    def number_of(self, module: torch.nn.Module) -> int:
        """Return the number of a layer that the probe has found."""
        return self._numbers[module]

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
        s_aux: torch.Tensor | None = None,
        is_causal: bool | None = None,
        offset_bias: torch.Tensor | None = None,
        key_bias: KeyBias | None = None,
        indices: KeyChoice | None = None,
        block_indices: KeyChoice | None = None,
        **others: Any,
    ) -> tuple[torch.Tensor, None]:
        """Attend: query [1, heads, rows, dim], key and value [1, kv_heads, rows, dim] →
        [1, rows, heads, dim]."""
        if scaling is None:
            scaling = query.shape[-1] ** -0.5
        causal = bool(getattr(module, "is_causal", True)) and is_causal is not False
        if is_causal is not None and self._allows_both_ways:
            causal = is_causal
        reads_source = self._allows_sources and _is_cross_attention(module)
        options = AttentionOptions(
            scaling, sliding_window, softcap, s_aux, causal, offset_bias, reads_source,
            _chunk_of(module), key_bias, indices or block_indices,
        )  # fmt: skip
        if self.backend is None:
            if not (causal or self._allows_both_ways):
                raise ModelUnsupported("its attention is not causal")
            if not reads_source:
                mask = None if PassOptions.gives_mask(module) else attention_mask
                check_call(query, key, mask, others)
            return self._probe_layer(module, query, key, value, options), None
        layer = self._numbers[module]
        rows_query = query[0].transpose(0, 1)
        rows_key = key[0].transpose(0, 1)
        rows_value = value[0].transpose(0, 1)
        if not reads_source:
            self.backend.write(layer, rows_key, rows_value)
        output = self.backend.attend(layer, rows_query, rows_key, rows_value, options)
        return output.unsqueeze(0), None

    def index(self, module: Any, *args: Any) -> KeyChoice:
        """Write an indexer's keys to its layer of the cache; return what chooses keys for rows.

        args: of the indexer's forward pass.
        """
        key, make_choice = start_choice(module, *args)
        if self.backend is None:
            self._numbers[module] = len(self.layers)
            self.layers.append(KVLayerShape(1, key.shape[1], 0))
            self.options.append(AttentionOptions(1.0))
            self.heads.append(1)
        layer = self._numbers[module]
        if self.backend is not None:
            key = key.unsqueeze(1)
            self.backend.write(layer, key, key[..., :0])
        return make_choice(layer)

    def _probe_layer(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        options: AttentionOptions,
    ) -> torch.Tensor:
        """Record a layer that is called by the probe; return an output of zeros."""
        _, heads, rows, _ = query.shape
        output = query.new_zeros((1, rows, heads, value.shape[3]))
        number = self._numbers.get(module)
        if number is not None:
            # Sequences of several steps need a cache for each use; for others one is enough.
            if not self._allows_both_ways or self.options[number] != options:
                raise ModelUnsupported("an attention layer is used twice in one forward pass")
            return output
        self._numbers[module] = len(self.layers)
        self.layers.append(KVLayerShape(key.shape[1], key.shape[3], value.shape[3]))
        self.options.append(options)
        self.heads.append(heads)
        return output


def _register(hook: AttentionHook) -> None:
    """Register the hook under its name with transformers, while something else keeps it alive.

    The registry lives as long as the process; what it holds would keep the model and its cache.
    """
    attend = weakref.WeakMethod(hook._attend)

    def call(*args: Any, **options: Any) -> tuple[torch.Tensor, None]:
        method = attend()
        assert method is not None, "the model has outlived its hook"
        return method(*args, **options)

    ALL_ATTENTION_FUNCTIONS.register(hook.name, call)
    _hooks[hook.name] = hook


def connect_indexers(model: PreTrainedModel) -> None:
    """Let a model's indexers choose keys of the paged cache while its attention is a paged one."""
    for module in find_indexers(model):
        module.forward = functools.partial(_run_indexer, model.config, module)


def _run_indexer(config: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
    hook = _hooks.get(config._attn_implementation)
    if hook is None:
        return run_indexer(module, *args, **kwargs)
    return hook.index(module, *args)


def connect_ropes(model: PreTrainedModel) -> None:
    """Let rotary embeddings whose frequencies switch compute each sequence's own, while a paged
    attention is the model's."""
    for module in switching_modules(model):
        module.forward = functools.partial(_run_rope, model.config, module)


def _run_rope(config: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
    hook = _hooks.get(config._attn_implementation)
    if hook is None or hook.long_rows is None:
        return type(module).forward(module, *args, **kwargs)
    return tables_by_row(module, hook.long_rows, *args, **kwargs)


def _set_attention(model: PreTrainedModel, name: str) -> None:
    model.set_attn_implementation(name)
    if model.config._attn_implementation != name:  # older models accept no name of a registry
        model.config._attn_implementation = name


def _chunk_of(module: torch.nn.Module) -> int | None:
    """Return the size of the chunks that a layer attends within, as its configuration says.

    transformers' models do not pass it: it is in their masks only.
    """
    config, number = getattr(module, "config", None), getattr(module, "layer_idx", None)
    types = getattr(config, "layer_types", None)
    if not types or number is None or types[number] != "chunked_attention":
        return None
    return cast(int | None, getattr(config, "attention_chunk_size", None))


@contextmanager
def attention_of(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Use another attention implementation of the registry within the context."""
    before = model.config._attn_implementation
    _set_attention(model, name)
    try:
        yield
    finally:
        _set_attention(model, before)


def _is_cross_attention(module: torch.nn.Module) -> bool:
    """Return whether a decoder's layer attends to an encoder's vectors, by the names of
    transformers' models."""
    return bool(getattr(module, "is_decoder", False)) and not getattr(module, "is_causal", True)


def vocab_rows(model: PreTrainedModel) -> int:
    """Return the number of rows of the model's embedding: token ids are below it."""
    return cast(torch.Tensor, model.get_input_embeddings().weight).shape[0]
