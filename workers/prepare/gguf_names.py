"""Find which tensors of a GGUF file a transformers model has, and what llama.cpp did to each.

transformers knows both, in tables that it uses when it loads a file. What is found here is kept
with the prepared folder, so that workers need neither those tables nor the file's header.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from headrace.workers.prepare.gguf_header import GGUFError, GGUFHeader, GGUFTensor
from headrace.workers.quantized.formats import BLOCK_FORMATS, FLOAT_FORMATS

_EXPERTS = re.compile(r"(?P<name>.*\.ffn_(?P<part>gate|up|down)_exps)\.weight")
_BIASED_EXPERTS = re.compile(r".*\.ffn_(?P<part>gate|up|down)_exps\.(weight|bias)")
# By transformers' type of model: the gguf package's name of its architecture, and whether names of
# experts' tensors are looked up with their ends.
_OWN_NAMES = {"mixtral": ("LLAMA", False), "gpt_oss": ("GPT_OSS", True)}
_TRANSPOSED = ("attn_qkv.weight", "ffn_down.weight", "ffn_up.weight", "attn_output.weight")


def place_tensors(
    files: Sequence[Path], headers: Sequence[GGUFHeader], model: Any
) -> list[dict[str, Any]] | None:
    """Return where each tensor of a model lies; None for architectures that are not known here.

    model: a transformers model, on any device.

    The entries are keyword arguments of headrace.workers.quantized.gguf_file.TensorPlace.

    Raises GGUFError if a tensor has a type that cannot be read.
    """
    processor, changes = _changes(headers[0].architecture, model.config.to_dict())
    if changes is None:
        return None
    names = _names(model, processor)
    entries = []
    for number, header in enumerate(headers):
        for tensor in header.tensors:
            change = changes(tensor, names)
            if change is not None:
                if not _is_readable(tensor.type):
                    kind = tensor.type
                    raise GGUFError(
                        f"tensor {tensor.name!r} has the type {kind}, which is not read"
                    )
                place = {"type": tensor.type, "shape": tensor.shape, "offset": tensor.offset}
                entries.append({"file": number, **place, **change})
    return entries


@cache
def _is_readable(kind: str) -> bool:
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


def _changes(architecture: str, config: dict[str, Any]) -> tuple[Any, Any]:
    """Return transformers' processor of an architecture, and our function that does the same.

    The function is None if it does not do the same as the processor.
    """
    from transformers import modeling_gguf_pytorch_utils

    tables: Any = modeling_gguf_pytorch_utils
    key = architecture.replace("gpt-oss", "gpt_oss")  # in the table
    processor_class = tables.TENSOR_PROCESSORS.get(key, tables.TensorProcessor)
    name = processor_class.__name__

    def plain(tensor: GGUFTensor, names: dict[str, str]) -> dict[str, Any] | None:
        return {"name": names[tensor.name]} if tensor.name in names else None

    def with_heads(tensor: GGUFTensor, names: dict[str, str]) -> dict[str, Any] | None:
        entry = plain(tensor, names)
        heads, kv_heads = config.get("num_attention_heads"), config.get("num_key_value_heads")
        if entry is not None and heads and kv_heads:
            if ".attn_q." in tensor.name:
                entry["heads"] = heads
            elif ".attn_k." in tensor.name:
                entry["heads"] = kv_heads
        return entry

    def with_norms_from_one(tensor: GGUFTensor, names: dict[str, str]) -> dict[str, Any] | None:
        entry = plain(tensor, names)
        if entry is not None and "norm.weight" in tensor.name:
            entry["added"] = -1.0
        return entry

    def with_experts(tensor: GGUFTensor, names: dict[str, str]) -> dict[str, Any] | None:
        experts = _EXPERTS.fullmatch(tensor.name)
        if experts is not None and experts["name"] in names:
            return {"name": names[experts["name"]], "part": experts["part"]}
        return plain(tensor, names)

    def with_heads_and_experts(tensor: GGUFTensor, names: dict[str, str]) -> dict[str, Any] | None:
        return with_heads(tensor, names) or with_experts(tensor, names)

    def with_transposed(tensor: GGUFTensor, names: dict[str, str]) -> dict[str, Any] | None:
        if tensor.name == "output.weight":
            return {"name": "lm_head.weight"}
        entry = plain(tensor, names)
        if entry is not None and tensor.name.endswith(_TRANSPOSED):
            entry["transposed"] = True
        return entry

    def with_turned_experts(tensor: GGUFTensor, names: dict[str, str]) -> dict[str, Any] | None:
        entry, experts = plain(tensor, names), _BIASED_EXPERTS.fullmatch(tensor.name)
        if entry is None or experts is None:
            return entry
        return {**entry, "part": experts["part"], "interleaved": True, "transposed": True}

    known = {
        "TensorProcessor": plain,
        "LlamaTensorProcessor": with_heads_and_experts,
        "Gemma2TensorProcessor": with_norms_from_one,
        "NemotronTensorProcessor": with_norms_from_one,
        "Qwen2MoeTensorProcessor": with_experts,
        "GPT2TensorProcessor": with_transposed,
        "GptOssTensorProcessor": with_turned_experts,
    }
    return processor_class(config=config), known.get(name)


def _names(model: Any, processor: Any) -> dict[str, str]:
    """Return transformers' names of tensors by llama.cpp's."""
    from transformers import modeling_gguf_pytorch_utils

    tables: Any = modeling_gguf_pytorch_utils
    if model.config.model_type in _OWN_NAMES:
        return dict(_own_names(model))
    try:
        names = tables.get_gguf_hf_weights_map(_Outline(model), processor)
    except NotImplementedError:  # an architecture that the gguf package does not know
        return {}
    return dict(names)


def _own_names(model: Any) -> Iterator[tuple[str, str]]:
    """Yield the same of architectures whose experts transformers does not find in their files."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    architecture, ends = _OWN_NAMES[model.config.model_type]
    table = get_tensor_name_map(MODEL_ARCH[architecture], model.config.num_hidden_layers)
    for full in model.state_dict():
        base, _, last = full.rpartition(".")
        suffix = f".{last}" if last in ("weight", "bias") else ""
        base = base if suffix else full
        if ".experts." in full:
            suffix = (".bias" if base.endswith("_bias") else ".weight") if ends else ""
            base = base.removesuffix("_bias")
        elif not suffix:
            suffix = ".weight"
        name = table.get_name(base.replace("gate_up_proj", "down_proj"))
        if name is not None and base.endswith("gate_up_proj"):
            yield from ((name.replace("down", part) + suffix, full) for part in ("gate", "up"))
        elif name is not None:
            yield name + suffix, full


class _Outline:
    """A model as far as its names: the whole, and the model without its head.

    transformers would look at each module by itself, which takes seconds.
    """

    def __init__(self, model: Any, depth: int = 1) -> None:
        self._model, self._depth = model, depth
        self.config = model.config

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors by name."""
        states: dict[str, Any] = self._model.state_dict()
        return states

    def named_children(self) -> list[tuple[str, "_Outline"]]:
        """Return the model without its head."""
        return list(self._inner()) if self._depth else []

    def _inner(self) -> Iterator[tuple[str, "_Outline"]]:
        for name, child in self._model.named_children():
            if getattr(child, "config", None) is not None:
                yield name, _Outline(child, self._depth - 1)
