"""Make a tiny random model of an architecture and save it as any checkpoint is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from headrace.workers.torch_runner.loading import silence_transformers
from tests.models.catalogue import Architecture
from tests.models.overrides import DEFAULTS, OVERRIDES
from tests.models.shape import Shape
from tests.models.shrink import RESERVED, Values, shrink_text
from tests.models.shrink_others import shrink_other

_TEXT_KEYS = (
    "text_config", "decoder", "language_config", "llm_config", "thinker_config",
    "attn_config", "ffn_config", "generator")  # fmt: skip
_DROPPED = ("transformers_version", "_name_or_path", "id2label", "label2id", "_attn_implementation")

_SPREADS = ((1.6, 1.0), (1.0, 0.3), (2.5, 0.1), (0.7, 1.0), (1.6, 3.0))
ATTEMPTS = len(_SPREADS)


def make_config(architecture: Architecture, shape: Shape) -> Any:
    """Return the architecture's tiny configuration. Raises whatever its class raises."""
    config_class = CONFIG_MAPPING[architecture.model_type]
    default = config_class(**DEFAULTS.get(architecture.model_type, {})).to_dict()
    values = _shrink(default, shape)
    values.pop("model_type", None)
    config = config_class(**values)
    model_class = getattr(transformers, architecture.class_name)
    reads = model_class.config_class or object
    if not isinstance(config, reads) and isinstance(config.get_text_config(), reads):
        return config.get_text_config()  # the class reads the text's part alone
    return config


def _shrink(default: Mapping[str, Any], shape: Shape) -> Values:
    """Return the values of a configuration and of those within it."""
    kept = {key: value for key, value in default.items() if key not in _DROPPED}
    inner = {key: value for key, value in kept.items() if _is_config(value)}
    values = shrink_text({key: kept[key] for key in kept if key not in inner}, shape)
    for key, value in inner.items():
        is_text = key in _TEXT_KEYS
        values[key] = _shrink(value, shape) if is_text else shrink_other(value, shape)
    change = OVERRIDES.get(str(default.get("model_type")))
    if change is not None:
        change(values, shape)
    return values


def _is_config(value: Any) -> bool:
    return isinstance(value, dict) and "model_type" in value


def save_model(
    folder: Path, architecture: Architecture, shape: Shape, seed: int, attempt: int = 0
) -> None:
    """Write a random model into the folder, the same one for the same seed and attempt.

    attempt: weights of other sizes are drawn in each, for models whose texts repeat.
    """
    silence_transformers()
    config = make_config(architecture, shape)
    torch.manual_seed(seed)
    model = getattr(transformers, architecture.class_name)(config).eval()
    randomize(model, shape.vocab, *_SPREADS[attempt])
    model.generation_config = transformers.GenerationConfig()  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)


@torch.no_grad()
def randomize(model: Any, vocab: int, spread: float, embedding_spread: float) -> None:
    """Draw weights that make texts which do not repeat: none is at its first value.

    spread: of outputs of a linear layer over that of its inputs. embedding_spread: of embeddings.
    Norms, biases and the numbers of recurrent layers stay near what they were.
    """
    for name, weight in model.named_parameters():
        if weight.ndim < 2 or "norm" in name or not weight.is_floating_point():
            _disturb(weight)
        elif "embed" in name or "wte" in name:
            weight.normal_(std=embedding_spread)
        elif weight.ndim == 3 and "conv" in name:
            weight.normal_(std=0.6)
        else:
            weight.normal_(std=spread * _inputs(weight) ** -0.5)
    for name, buffer in model.named_buffers():
        if "bias" in name and buffer.is_floating_point() and not buffer.any():
            buffer.normal_(std=0.1)  # of routers
    _silence_reserved(model, vocab)


def _disturb(weight: torch.Tensor) -> None:
    if weight.is_floating_point():
        weight.add_(torch.randn_like(weight) * 0.2)


def _inputs(weight: torch.Tensor) -> int:
    """Return how many products make an output, at most: experts are stored either way round."""
    return max(1, int(weight.shape[-1] if weight.ndim < 4 else weight[0].numel()))


def _silence_reserved(model: Any, vocab: int) -> None:
    """Let no text hold the ids of pictures and such: their logits are zero."""
    head = model.get_output_embeddings()
    if head is not None and head.weight.shape[0] == vocab:
        head.weight[vocab - RESERVED :] = 0
        if getattr(head, "bias", None) is not None:
            head.bias[vocab - RESERVED :] = -1
