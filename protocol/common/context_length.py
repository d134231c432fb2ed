"""Find a model's context length in its configuration: one rule for all processes."""

from collections.abc import Iterator, Mapping
from typing import Any

# The names that different architectures give the same number.
_MAX_POSITION_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
    "n_ctx",
    "max_target_positions",
    "model_max_length",
    "context_length",
)
# Recurrent models without positions, which have no limit: texts of this length can be expected to
# make sense, a few times as long as those of their training.
_WITHOUT_POSITIONS = ("mamba", "mamba2", "falcon_mamba", "recurrent_gemma", "xlstm")
_LENGTH_WITHOUT_POSITIONS = 32768
_SWITCHING_ROPE_TYPES = ("longrope", "su")  # "su" is the name of longrope in older files


def context_length(config: Mapping[str, Any]) -> int | None:
    """Return the context length in tokens, prompt and output together; None if it is unknown.

    config: config.json as an object, or transformers' completion of it; that of the text model may
        be nested under "text_config".

    The rule is max_position_embeddings (or what the architecture calls it), or 32768 for
    architectures without positions, whose files give none. Except for one kind of rotary
    embedding, found under "rope_parameters" or, in older files, "rope_scaling":

    - yarn (Peng et al., 2023) stretches original_max_position_embeddings by `factor`. Some files
      give the stretched length as max_position_embeddings (DeepSeek V2), some the original one
      (Qwen 2.5), so the larger of max_position_embeddings and original * factor counts. Without an
      original length, max_position_embeddings stands for it, as in transformers.
    - longrope (Ding et al., 2024) has other frequencies beyond the original length: see
      `switch_length`. Its context is max_position_embeddings all the same.

    All others stay at max_position_embeddings: llama3 and Gemma 3's linear scaling include their
    factor in it; other linear files may or may not, and the shorter length is never wrong; dynamic
    scaling changes its frequencies only beyond it, which again would change them for a whole batch.
    """
    text_config = config.get("text_config")
    config = text_config if isinstance(text_config, Mapping) else config
    max_positions = next(
        (length for name in _MAX_POSITION_NAMES if (length := _length(config.get(name)))), None
    )
    if max_positions is None:
        is_without = config.get("model_type") in _WITHOUT_POSITIONS
        return _LENGTH_WITHOUT_POSITIONS if is_without else None
    ropes = [rope for rope in _ropes(config) if _rope_type(rope) == "yarn"]
    return max([max_positions, *(_stretched(rope, max_positions) for rope in ropes)])


def switch_length(config: Mapping[str, Any]) -> int | None:
    """Return the length beyond which a sequence has other rotary frequencies; None if there is
    none, or no sequence is longer.

    config: as for `context_length`.
    """
    longest = context_length(config)
    text_config = config.get("text_config")
    config = text_config if isinstance(text_config, Mapping) else config
    outer = _length(config.get("original_max_position_embeddings"))
    lengths = [
        outer or _length(rope.get("original_max_position_embeddings"))
        for rope in _ropes(config)
        if _rope_type(rope) in _SWITCHING_ROPE_TYPES
        and rope.get("short_factor") != rope.get("long_factor")
    ]
    known = [length for length in lengths if length is not None]
    switch = min(known, default=None)
    return None if switch is None or longest is None or switch >= longest else switch


def _ropes(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the parameters of the rotary embeddings: one set, or one for each kind of layer."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(parameters, Mapping):
        return
    nested = [value for value in parameters.values() if isinstance(value, Mapping)]
    yield from nested or [parameters]


def _rope_type(rope: Mapping[str, Any]) -> Any:
    return rope.get("rope_type") or rope.get("type")


def _stretched(rope: Mapping[str, Any], max_positions: int) -> int:
    factor = rope.get("factor")
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 <= factor < 1e6:
        return max_positions
    return int((_length(rope.get("original_max_position_embeddings")) or max_positions) * factor)


def _length(value: Any) -> int | None:
    is_length = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return value if is_length else None
