"""Convert pickled weights to safetensors, once, where the operator allows it.

torch reads them with `weights_only`: an unpickler that makes tensors and plain containers, and
rejects whatever else a pickle asks for.
"""

import json
from pathlib import Path
from typing import Any

_SINGLE, _INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


class PickleError(ValueError):
    """The files cannot be converted; the text is one line for the operator."""


def convert_pickles(source: Path, output: Path) -> None:
    """Write the weights in `source` to `output`, in as many files as they have.

    Raises PickleError if a file holds anything but tensors by name.
    """
    from safetensors.torch import save_file

    names = _shards(source)
    weight_map: dict[str, str] = {}
    for number, name in enumerate(names, start=1):
        tensors = _read(source / name)
        target = "model.safetensors"
        if len(names) > 1:
            target = f"model-{number:05}-of-{len(names):05}.safetensors"
        weight_map |= dict.fromkeys(tensors, target)
        save_file(tensors, output / target, metadata={"format": "pt"})
    if len(names) > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (output / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _shards(source: Path) -> list[str]:
    """Return the names of the files that make up the weights."""
    if (source / _SINGLE).is_file():
        return [_SINGLE]
    if not (source / _INDEX).is_file():
        raise PickleError(f"neither {_SINGLE} nor {_INDEX} is in this folder")
    try:
        names = sorted(set(json.loads((source / _INDEX).read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PickleError(f"{_INDEX} has no weight_map") from error
    for name in names:
        if Path(name).name != name or not (source / name).is_file():
            raise PickleError(f"{_INDEX} names {name[:100]!r}, which is no file of this folder")
    return names


def _read(file: Path) -> dict[str, Any]:
    import torch

    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler fails in any way on bytes that are none of its own
        raise PickleError(f"{file.name} holds more than tensors, or is damaged") from error
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in loaded.items()
    ):
        raise PickleError(f"{file.name} is not a mapping of names to tensors")
    # safetensors takes no two tensors of one memory.
    return {name: tensor.detach().clone().contiguous() for name, tensor in loaded.items()}
