"""Find where each parameter of a transformers model lies in GGUF files.

What is found is kept with the prepared folder, so that workers need no tables of architectures.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from math import prod
from typing import Any

import numpy as np

from headrace.workers.prepare.gguf_header import GGUFError, GGUFHeader, GGUFTensor
from headrace.workers.prepare.gguf_models.facts import ModelFacts
from headrace.workers.prepare.gguf_models.targets import Architecture, Target
from headrace.workers.quantized.formats import BLOCK_FORMATS, FLOAT_FORMATS

Entry = dict[str, Any]
_LAYER = re.compile(r"blk\.(?P<layer>\d+)\.(?P<rest>.*)")
_ENDS = (".weight", ".bias")
_ROPE = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_SCALES = re.compile(r".*\.(scale|input_scale)")  # of one number each in some newer formats
_MAX_SHOWN = 3


def place_tensors(
    headers: Sequence[GGUFHeader], architecture: Architecture, facts: ModelFacts, model: Any
) -> list[Entry]:
    """Return where each parameter lies: arguments of ...quantized.gguf_file.TensorPlace.

    model: a transformers model, on any device.

    Raises GGUFError if a parameter lies nowhere, a tensor belongs nowhere or has another shape.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    entries: list[Entry] = []
    unknown = []
    for number, header in enumerate(headers):
        for tensor in header.tensors:
            found = list(_entries(tensor, architecture, facts, shapes))
            if not found and not _is_needless(tensor.name, architecture, facts):
                unknown.append(tensor.name)
            entries += [{"file": number, **entry} for entry in found]
    entries += _constants(architecture, facts, shapes)
    if unknown:
        raise GGUFError(f"has {len(unknown)} tensors that its architecture lacks: {_few(unknown)}")
    _check_complete(entries, shapes, model)
    return _with_shapes(entries, shapes, model)


def _constants(
    architecture: Architecture, facts: ModelFacts, shapes: dict[str, Any]
) -> list[Entry]:
    """Return the places of parameters that lie in the metadata."""
    found = architecture.constants(facts) if architecture.constants else {}
    entries = []
    for name, values in found.items():
        for layer, value in enumerate(values):
            full = architecture.prefix.format(layer) + name
            place = {"type": "f32", "shape": shapes[full], "file": 0, "offset": 0}
            entries.append({"name": full, "value": value, "view": shapes[full], **place})
    return entries


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_SHOWN]) + (", ..." if len(names) > _MAX_SHOWN else "")


def _is_needless(name: str, architecture: Architecture, facts: ModelFacts) -> bool:
    """Return whether the model does without a tensor: it is in its configuration, or is of a layer
    that predicts further tokens."""
    match = _LAYER.fullmatch(name)
    if match is not None and int(match["layer"]) >= facts.layers:
        return True
    rest = name if match is None else match["rest"]
    return rest in _ROPE or rest in architecture.ignored


def _entries(
    tensor: GGUFTensor, architecture: Architecture, facts: ModelFacts, shapes: dict[str, Any]
) -> Iterator[Entry]:
    """Yield a tensor's places, of which a model that has experts one by one has several."""
    match = _LAYER.fullmatch(tensor.name)
    if match is not None and int(match["layer"]) >= facts.layers:
        return
    names = architecture.outer if match is None else architecture.layer
    rest = tensor.name if match is None else match["rest"]
    prefix = "" if match is None else architecture.prefix.format(match["layer"])
    target, end = _target(names, rest)
    if target is None:
        return
    if not is_readable(tensor.type):
        raise GGUFError(f"tensor {tensor.name!r} has the type {tensor.type}, which is not read")
    full = prefix + target.name + end
    added = target.added
    if "norm" in rest and rest.endswith(".weight") and rest not in architecture.norms_kept:
        added -= architecture.norm_offset
    changes = {
        "rows": target.rows(facts) if target.rows else None,
        "columns": target.columns(facts) if target.columns else None,
        "added": added,
        "transposed": target.transposed,
        "interleaved": target.interleaved,
        "log_negated": target.log_negated,
        "part": target.part,
        "position": target.position,
    }
    entry = {"type": tensor.type, "shape": tensor.shape, "offset": tensor.offset}
    entry |= {key: value for key, value in changes.items() if value}
    if not target.split:
        if full in shapes:
            yield {"name": full, **entry}
        return
    step = tensor_bytes(tensor) // tensor.shape[0]
    for part in range(tensor.shape[0]):
        place = {"shape": tensor.shape[1:], "offset": tensor.offset + part * step}
        yield {"name": full.format(part), **entry, **place}


def _target(names: Any, rest: str) -> tuple[Target | None, str]:
    """Return the target of a tensor and the ending of the parameter's name."""
    found, end = names.get(rest), ""
    if found is None:
        stem = next((rest.removesuffix(end) for end in _ENDS if rest.endswith(end)), rest)
        found, end = names.get(stem), rest[len(stem) :]
    return (Target(found) if isinstance(found, str) else found), end


def tensor_bytes(tensor: GGUFTensor) -> int:
    """Return the size of a tensor in its file."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    numbers, num_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[tensor.type.upper()]]
    return prod(tensor.shape) // numbers * num_bytes


@cache
def is_readable(kind: str) -> bool:
    """Return whether there is code that reads numbers of a type."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    if kind in BLOCK_FORMATS or kind in FLOAT_FORMATS:
        return True
    number = GGMLQuantizationType[kind.upper()]
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[number][1]), np.uint8), number)
    except NotImplementedError:
        return False
    return True


def _check_complete(entries: Sequence[Entry], shapes: dict[str, Any], model: Any) -> None:
    found = {entry["name"] for entry in entries}
    tied = set(model.all_tied_weights_keys) if model.config.tie_word_embeddings else set()
    missing = sorted(set(shapes) - found - tied)
    if missing:
        raise GGUFError(f"lacks {len(missing)} weights that its model needs: {_few(missing)}")


def _with_shapes(entries: Sequence[Entry], shapes: dict[str, Any], model: Any) -> list[Entry]:
    """Return the entries, with the model's shapes where files have the numbers in another.

    Those get the numbers themselves: only weights of linear layers and tables stay in blocks.
    """
    by_name: dict[str, list[Entry]] = {}
    for entry in entries:
        by_name.setdefault(entry["name"], []).append(entry)
    for name, places in by_name.items():
        shape = shapes[name]
        if "value" in places[0]:
            continue
        if places[0].get("part") is not None:
            _check_count(name, places, shape)
            continue
        rows = sum(place["shape"][0] for place in places)
        stored = (rows, *places[0]["shape"][1:])
        stored = stored[::-1] if places[0].get("transposed") else stored
        if stored == shape and len(shape) == 2 and is_linear(model, name):
            continue
        if prod(stored) != prod(shape):
            raise _another(name, stored, shape)
        if len(shape) > 1 and len(stored) > 1 and _squeezed(stored) != _squeezed(shape):
            raise _another(name, stored, shape)
        for place in places:
            place["view"] = shape
    return list(entries)


def is_linear(model: Any, name: str) -> bool:
    """Return whether a parameter is the weight of a linear layer, or a table of vectors."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    module = model.get_submodule(name.rpartition(".")[0])
    return isinstance(module, (nn.Linear, nn.Embedding, Conv1D)) and name.endswith(".weight")


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _check_count(name: str, places: Sequence[Entry], shape: Sequence[int]) -> None:
    if sum(prod(place["shape"]) for place in places) != prod(shape):
        raise _another(name, [place["shape"] for place in places], shape)


def _another(name: str, stored: Any, shape: Any) -> GGUFError:
    return GGUFError(f"has {name} in the shape {stored} instead of {tuple(shape)}")
