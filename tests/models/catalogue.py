"""The architectures of transformers that generate text, and a tiny random model of each."""

from dataclasses import dataclass

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)


@dataclass(frozen=True)
class Architecture:
    """A class of transformers for one kind of configuration.

    name: the configuration's `model_type`, with "+" after it for the class that reads more than
        text, where there is one for text alone, too.
    reads_more: whether the class reads pictures or sound, too.
    """

    name: str
    model_type: str
    class_name: str
    reads_more: bool


def architectures() -> list[Architecture]:
    """Return every architecture that transformers lists as a generator of text."""
    text = {key: _single(value) for key, value in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()}
    more = {key: _single(value) for key, value in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.items()}
    found = [
        Architecture(key, key, value, key in more and more[key] == value)
        for key, value in text.items()
    ]
    for key, value in more.items():
        if text.get(key) != value:
            found.append(Architecture(f"{key}+" if key in text else key, key, value, True))
    return found


def _single(names: str | tuple[str, ...]) -> str:
    return names if isinstance(names, str) else names[0]
