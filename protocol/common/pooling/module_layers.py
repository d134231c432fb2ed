"""Read the modules of sentence-transformers that follow pooling: linear layers, norms and the like.

Each has a folder of its own, with config.json and perhaps weights.
"""

from dataclasses import dataclass
from pathlib import Path

from headrace.protocol.common.pooling.json_files import PoolingFilesError, is_count, read_object


@dataclass(frozen=True, slots=True)
class DenseModule:
    """A linear layer. activation: the name of torch's class, such as "Tanh"."""

    folder: Path
    inputs: int
    outputs: int
    has_bias: bool
    activation: str


@dataclass(frozen=True, slots=True)
class LayerNormModule:
    """A layer norm with weights."""

    folder: Path
    size: int


@dataclass(frozen=True, slots=True)
class NormalizeModule:
    """Makes a vector's length 1."""


ModuleLayer = DenseModule | LayerNormModule | NormalizeModule


def read_layer(kind: str, place: Path) -> ModuleLayer | None:
    """Return the layer of a module; None if it changes no vectors.

    Raises PoolingFilesError if its file is damaged.
    """
    if kind == "Dense":
        return _dense(place)
    if kind == "LayerNorm":
        size = read_object(place / "config.json").get("dimension")
        if not is_count(size):
            raise PoolingFilesError(f"{place}: a LayerNorm module without a dimension")
        return LayerNormModule(place, int(size or 0))
    return NormalizeModule() if kind == "Normalize" else None


def size_after(layers: tuple[ModuleLayer, ...], size: int) -> int:
    """Return the numbers of a vector after layers. Raises PoolingFilesError if they do not fit."""
    for layer in layers:
        takes = size
        match layer:
            case DenseModule():
                takes, after = layer.inputs, layer.outputs
            case LayerNormModule():
                takes = after = layer.size
            case _:
                continue
        if takes != size:
            raise PoolingFilesError(f"{layer.folder}: takes {takes} numbers, not {size}")
        size = after
    return size


def _dense(place: Path) -> DenseModule:
    config = read_object(place / "config.json")
    inputs, outputs = config.get("in_features"), config.get("out_features")
    if not is_count(inputs) or not is_count(outputs):
        raise PoolingFilesError(f"{place}: a Dense module without in_features and out_features")
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    return DenseModule(
        place,
        int(inputs or 0),
        int(outputs or 0),
        bool(config.get("bias", True)),
        activation.rpartition(".")[2],
    )
