"""Tell texts that a model has made up from those that it has heard.

Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022).
"""

import zlib
from dataclasses import dataclass

from headrace.protocol.sampling import RepetitionRule

# Ends an output that repeats itself for so long that its text must fail the guards.
REPETITION = RepetitionRule(min_pattern_size=1, max_pattern_size=32, min_count=12)


def compression_ratio(text: str) -> float:
    """Return the bytes of a text over its compressed bytes; 0 for an empty text."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


@dataclass(frozen=True, slots=True)
class Guards:
    """Thresholds (see SpeechOptions)."""

    compression_ratio: float
    logprob: float
    no_speech: float

    def is_silence(self, no_speech_prob: float, avg_logprob: float) -> bool:
        """Return whether a window holds no speech, whatever its text says."""
        return no_speech_prob > self.no_speech and avg_logprob < self.logprob

    def rejects(self, ratio: float, avg_logprob: float, no_speech_prob: float) -> bool:
        """Return whether a text should be tried at another temperature."""
        if self.is_silence(no_speech_prob, avg_logprob):
            return False
        return ratio > self.compression_ratio or avg_logprob < self.logprob
