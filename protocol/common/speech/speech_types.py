"""Tell models that transcribe from others."""

from collections.abc import Mapping
from typing import Any, Final

# Types of configurations whose encoder listens and whose decoder writes.
SPEECH_TYPES: Final = frozenset({"whisper"})


def is_speech_model(config: Mapping[str, Any]) -> bool:
    """Return whether a model with this config.json transcribes."""
    return config.get("model_type") in SPEECH_TYPES
