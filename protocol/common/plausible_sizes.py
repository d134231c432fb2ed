"""Sizes in a model's configuration that no model has, or that its weights do not hold.

They come from damaged or hostile files. transformers would build such a model for hours, or ask for
all memory, before it compared anything with the weights.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_MAX_DEPTH = 3
# Far beyond all models.
_LIMITS = {
    "num_hidden_layers": 10_000,
    "n_layer": 10_000,
    "n_layers": 10_000,
    "num_layers": 10_000,
    "encoder_layers": 10_000,
    "decoder_layers": 10_000,
    "depth": 10_000,
    "num_nextn_predict_layers": 10_000,
    "num_attention_heads": 100_000,
    "num_key_value_heads": 100_000,
    "num_experts": 100_000,
    "num_local_experts": 100_000,
    "n_routed_experts": 100_000,
    "max_position_embeddings": 1_000_000_000,
    "n_positions": 1_000_000_000,
    "sliding_window": 1 << 62,
    # Recurrent layers pad prompts to a multiple, and make matrices of so many rows and columns.
    "chunk_size": 4096,
    "mamba_chunk_size": 4096,
    "block_size": 16_384,
}
# Those of a text model; parts for pictures and sound may say 0 for something else.
_POSITIVE = ("vocab_size", "hidden_size", "num_attention_heads", "num_hidden_layers")
_WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")
# Each has a row of the model's width in a table, or in a matrix.
_ROWS = ("vocab_size", "intermediate_size", "moe_intermediate_size", "ffn_dim", "n_inner")
MAX_NUMBERS_PER_BYTE = 16  # formats of fewer than 2 bits, twice as compact again
SLACK_NUMBERS = 1 << 28  # of a small model that files may lack: another check names them


def implausible_size(config: Mapping[str, Any], weight_bytes: int) -> str:
    """Return in words which size of a configuration cannot be; "" if all can.

    weight_bytes: the size of the files of weights.
    """
    most = MAX_NUMBERS_PER_BYTE * weight_bytes + SLACK_NUMBERS
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for name in _POSITIVE:
            if _is_number(part.get(name)) and part[name] < 1:
                return f"{name} is {part[name]:.6g}, which no model has"
    for part in _parts(config, _MAX_DEPTH):
        for name, limit in _LIMITS.items():
            if _count(part.get(name)) > limit:
                return f"{name} is {part[name]:.6g}, which no model has"
        width = max((_count(part.get(name)) for name in _WIDTHS), default=0)
        for name in (*_WIDTHS, *_ROWS):
            size = _count(part.get(name))
            if size * max(1, width) > most:
                return f"{name} is {size:.6g}, and its weights have {weight_bytes} bytes"
    return ""


def _parts(config: Mapping[str, Any], depth: int) -> Iterator[Mapping[str, Any]]:
    yield config
    for value in config.values() if depth else ():
        if isinstance(value, Mapping):
            yield from _parts(value, depth - 1)


def _count(value: object) -> int | float:
    """Return a number; 0 for anything else."""
    return value if _is_number(value) else 0  # type: ignore[return-value]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
