"""What a compiled program is made of before its weights are packed: see `ProgramPlan`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from headrace.protocol.common.context_length import context_length
from headrace.protocol.config import Quantization
from headrace.workers.attention.backend import KVLayerShape
from headrace.workers.attention.rope_switch import is_switching
from headrace.workers.lora.adapter_files import LinearShape
from headrace.workers.native.capturing.capture import capture
from headrace.workers.native.capturing.forward_pass import ForwardPass, compute_logits
from headrace.workers.native.graph import NotStatic, TableCall
from headrace.workers.native.instructions import Lowered
from headrace.workers.native.lower import lower
from headrace.workers.native.position_tables import PositionTables, find_rotary
from headrace.workers.native.rewrite import rewrite

if TYPE_CHECKING:  # a program from the cache needs no transformers
    from transformers.modeling_utils import PreTrainedModel

    from headrace.workers.attention.hook import AttentionHook

_LENGTH = 4096  # positions of a model that does not give its own number


@dataclass(frozen=True, slots=True, eq=False)
class ProgramPlan:
    """A lowered model with references to its weights.

    layers: shapes of the cache's layers. tables: in the order in which the model computes them.
    source_layers: of the cache of what an encoder makes.
    vocab_size: the number of logits of a row, or of what else is computed of it.
    adaptable: names, by the ids of their weights, of the layers that adapters may change.
    shapes: of these layers, by name.
    """

    dtype: torch.dtype
    layers: tuple[KVLayerShape, ...]
    lowered: Lowered
    tables: tuple[PositionTables, ...]
    vocab_size: int
    adaptable: Mapping[int, str]
    shapes: Mapping[str, LinearShape]
    source_layers: tuple[KVLayerShape, ...] = ()


def plan_program(
    model: "PreTrainedModel",
    hook: "AttentionHook",
    quantization: Quantization | None = None,
    adaptable: Mapping[str, nn.Module] | None = None,
    forward: ForwardPass = compute_logits,
    dtype: torch.dtype | None = None,
) -> ProgramPlan:
    """Capture the model and lower it to instructions.

    adaptable: the layers that LoRA adapters may change, by name; None: none.
    forward: what is captured.
    dtype: of products, and of keys and values; None: the model's.

    Raises NotStatic if the model's forward pass is not one fixed program.
    """
    from headrace.workers.lora.layers import linear_shape  # imports transformers

    graph = rewrite(capture(model, hook, forward))
    names = {id(layer.weight): name for name, layer in (adaptable or {}).items()}
    dtype = dtype or model.dtype
    per_word = 2 if dtype == torch.bfloat16 else 1
    length = context_length(model.config.get_text_config(decoder=True).to_dict()) or _LENGTH
    return ProgramPlan(
        dtype=dtype,
        layers=tuple(hook.layers),
        lowered=lower(graph, per_word, quantization, names.keys()),
        tables=tuple(_tables_of(call, length) for call in graph.tables),
        vocab_size=0 if graph.output is None else graph.output.width,
        adaptable=names,
        shapes={name: linear_shape(layer) for name, layer in (adaptable or {}).items()},
    )


def _tables_of(call: TableCall, length: int) -> PositionTables:
    found = find_rotary(call, length)
    if found is None and is_switching(call.module):
        raise NotStatic("its rotary frequencies switch in a way of their own")
    return found or call
