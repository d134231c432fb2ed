"""Judge the weights of a checkpoint that a model has no place for.

A bias, a norm or a layer that the model's class lacks makes other text than the checkpoint's; a
tower of pictures, layers for drafts, or a table that is computed today makes none.
"""

import re
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from headrace.workers.errors import ModelUnsupported

# Parts of a name that say that it is not of the text.
_OTHER_MODALITY = re.compile(
    r"vision|visual|image|img|audio|speech|video|multi_?modal|mm_|projector|connector|resampler"
    r"|perceiver|q_?former|tower|pixel|whisper|codec|talker|code2wav|token2wav|aligner|vit\b|sam_"
)
_DRAFTS = re.compile(r"(^|\.)(mtp|nextn|eagle|medusa)[^.]*(\.|$)")
# Tables that are computed today, causal masks, and counters.
_COMPUTED = re.compile(
    r"(inv_freq|position_ids|(cos|sin)_cached|freqs_cis|rotary_emb\.\w+|rope\.freqs|total_ops"
    r"|total_params|decoder\.version|(^|\.)attn(\.attention)?\.(masked_)?bias|embed_positions\._\w+)$"
)
# What belongs to a quantized weight, in any format.
_QUANTIZED = re.compile(
    r"(^|[._])(scale|scales|scale_inv|weight_scale_?\w*|zero_points?|qweight|qzeros|g_idx|absmax"
    r"|quant_map|quant_state\.\w+|weight_packed|weight_shape|scb|amax|scaling_factor|lut|codebooks?"
    r"|qscales?)$",
    re.IGNORECASE,
)
# Of a cache in 8 bits or of inputs, which have scales of their own here.
_SCALES_OF_OTHERS = re.compile(r"(^|[._])(k|v|q|kv|kv_cache|input|output|prob)_scale$")
_HARMLESS = (_DRAFTS, _COMPUTED, _SCALES_OF_OTHERS)
_PACKED_TYPES = frozenset({"F8_E4M3", "F8_E5M2", "F4", "F6_E2M3", "F6_E3M2", "I8", "U8"})
_MASKS = (".bias", ".masked_bias", "_mask")


def is_of_text(name: str) -> bool:
    """Return whether a weight is of the text model, as far as its name tells."""
    return _OTHER_MODALITY.search(name) is None


def check_not_quantized(folder: Path) -> None:
    """Check that no weights of the text are in 8 bits, or codes, of which nothing tells how to read
    them.

    Raises ModelUnsupported, or OSError or SafetensorError if a file cannot be read.
    """
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in list(file.keys()):
                kind = file.get_slice(name).get_dtype() if is_of_text(name) else ""
                if kind in _PACKED_TYPES and not name.endswith(_MASKS):
                    what = "8-bit floats" if kind.startswith("F8") else f"the type {kind}"
                    raise ModelUnsupported(
                        f"{folder} has weights in {what}, among them {name}, and no "
                        "quantization_config that says how to read them"
                    )


def check_scales(folder: Path, names: Collection[str]) -> None:
    """Check that no weights that the model has no place for are of quantized ones.

    Raises ModelUnsupported.
    """
    for name in sorted(names):
        if is_of_text(name) and _QUANTIZED.search(name) and not _SCALES_OF_OTHERS.search(name):
            raise ModelUnsupported(
                f"{folder} has {name}, of weights that are quantized in a way that nothing tells"
            )


def check_leftovers(
    model: PreTrainedModel,
    names: Collection[str],
    folder: Path,
    log: Callable[[str], None],
    find: Callable[[str], torch.Tensor | None] = lambda name: None,
) -> None:
    """Check the weights that a model has no place for; log receives a line about harmless ones.

    names: theirs. find: returns the numbers of one.

    Raises ModelUnsupported if there is one without which the model makes other text.
    """
    check_scales(folder, names)
    judge = _Judge(model)
    harmless = []
    for name in sorted(names):
        if not judge.is_own(name) or _is_zero_bias(name, find):
            harmless.append(name)
            continue
        kind = "a bias" if name.endswith("bias") else "a weight"
        raise ModelUnsupported(
            f"{folder} has {kind} that its architecture has not: {name}, so that "
            f"{type(model).__name__} would make other text than its authors'"
        )
    note_leftovers(harmless, log)


def note_leftovers(names: Collection[str], log: Callable[[str], None]) -> None:
    """Tell in one line of weights that are not read, if there are any."""
    if names:
        log(f"{len(names)} weights have no use in text and are not read, e.g. {min(names)}")


class _Judge:
    """Tells which weights would be of a model's own layers."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._modules = dict(model.named_modules())
        self._base = model.base_model_prefix
        self._lists = [
            name for name, each in self._modules.items() if isinstance(each, nn.ModuleList)
        ]
        config = model.config.get_text_config(decoder=True)
        self._layers = _count(getattr(config, "num_hidden_layers", 0))
        drafts = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")
        self._drafts = max(_count(getattr(config, name, 0)) for name in drafts)

    def is_own(self, name: str) -> bool:
        if not is_of_text(name) or any(each.search(name) for each in _HARMLESS):
            return False
        first = name.partition(".")[0]
        is_of_base = f"{self._base}.{first}" in self._modules  # files of a base lack its prefix
        return self._is_own(f"{self._base}.{name}" if is_of_base else name)

    def _is_own(self, name: str) -> bool:
        parent = name.rpartition(".")[0]
        for each in self._lists:
            number, _, _ = name.removeprefix(f"{each}.").partition(".")
            if name.startswith(f"{each}.") and number.isdigit():
                return not self._is_draft(int(number))
        is_below = parent.startswith(f"{self._base}.")
        # A tensor of a known module, or of an unknown one directly in the base.
        return parent not in ("", self._base) and (parent in self._modules or is_below)

    def _is_draft(self, layer: int) -> bool:
        return self._layers <= layer < self._layers + self._drafts


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def _is_zero_bias(name: str, find: Callable[[str], torch.Tensor | None]) -> bool:
    """Return whether a bias adds nothing, as some tools write for every layer."""
    tensor = find(name) if name.endswith(".bias") else None
    return tensor is not None and not bool(tensor.any())


def find_in_files(folder: Path) -> Callable[[str], torch.Tensor | None]:
    """Return what reads tensors of a folder's safetensors by name."""

    def find(name: str) -> torch.Tensor | None:
        for path in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(path, framework="pt") as file:
                    if name in file.keys():  # noqa: SIM118
                        tensor: torch.Tensor = file.get_tensor(name)
                        return tensor
            except (OSError, SafetensorError):
                continue
        return None

    return find
