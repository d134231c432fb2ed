"""Decoders of recordings, as the work on these sees them."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol

from headrace.frontend.audio.messages import AudioFormat, AudioSummary, AudioWindow


class AudioSource(Protocol):
    """Decodes files (see headrace.frontend.audio.decoders)."""

    def windows(
        self, data: bytes | Path, format: AudioFormat, max_duration_s: float, timeout_s: float
    ) -> AsyncGenerator[AudioWindow | AudioSummary, None]: ...
