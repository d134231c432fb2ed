"""Say where a tensor of a GGUF file belongs in a transformers model, and what must be undone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.workers.prepare.gguf_models.facts import ModelFacts

# Named orders of rows or columns with their sizes, see headrace.workers.quantized.row_orders.
Order = list[Any]
MakeOrder = Callable[[ModelFacts], Order | None]


@dataclass(frozen=True, slots=True)
class Target:
    """One parameter of a layer, or of the whole model, as a tensor's place.

    name: without its ending (weight, bias) if the tensor's is named without it.
    rows, columns: how the file has them ordered.
    position: of this tensor among those that are joined by rows.
    Others: see headrace.workers.quantized.gguf_file.TensorPlace.
    """

    name: str
    added: float = 0.0
    rows: MakeOrder | None = None
    columns: MakeOrder | None = None
    position: int = 0
    transposed: bool = False
    interleaved: bool = False
    log_negated: bool = False
    part: str | None = None
    split: bool = False


Names = Mapping[str, str | Target]


@dataclass(frozen=True, slots=True)
class Architecture:
    """What one of llama.cpp's architectures is in transformers.

    model_type: transformers' name. config: makes the configuration's values.
    layer, outer: targets of tensors of each layer, and of others.
    prefix: of a layer's parameters, with {} for its number.
    norm_offset: what llama.cpp adds to norms' weights. norms_kept: names it does not add it to.
    ignored: tensors that the model does without.
    constants: makes parameters of a model's layers that lie in the file's metadata.
    """

    model_type: str
    config: Callable[[ModelFacts, Any], dict[str, Any]]
    layer: Names
    outer: Names = field(default_factory=dict)
    prefix: str = "model.layers.{}."
    norm_offset: float = 0.0
    norms_kept: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    constants: Callable[[ModelFacts], dict[str, list[float]]] | None = None
