"""Tell texts that a model has made up from those that it has heard.

Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022).
"""

import zlib
from dataclasses import dataclass

from headrace.protocol.sampling import RepetitionRule

# Ends an output that repeats itself for so long that it fails the guards.
REPETITION = RepetitionRule(min_pattern_size=1, max_pattern_size=32, min_count=12)
# A window's sound is steady below this change (see headrace.frontend.audio.sound_change): noise
# of any colour, hum, tones, clicks and rain are; of speech only what is fainter than the noise
# around it.
_STEADY_DB = 1.65
_SURE = 0.8  # of silence, so that a text must be likelier than otherwise
_ENOUGH_REJECTED = 2  # texts, for a window without speech: among more, one may pass by chance


def is_steady(change_db: float) -> bool:
    """Return whether a sound changes less than speech."""
    return change_db < _STEADY_DB


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
    steady_no_speech: float
    rejected_no_speech: float

    def is_silence(self, no_speech_prob: float, avg_logprob: float) -> bool:
        """Return whether a window holds no speech, whatever its text says."""
        if no_speech_prob > max(self.no_speech, _SURE):
            return avg_logprob < self.logprob / 2
        return no_speech_prob > self.no_speech and avg_logprob < self.logprob

    def is_steady_noise(self, no_speech_prob: float, avg_logprob: float, is_rejected: bool) -> bool:
        """Return whether a window of steady sound holds no speech. is_rejected: its text.

        A word that is as loud as the noise around it is steady, too: a model that is sure of it is
        believed.
        """
        is_doubtful = is_rejected or avg_logprob < self.logprob / 2
        least = self.steady_no_speech if is_doubtful else self.no_speech
        return no_speech_prob > least

    def may_be_silence(self, no_speech_prob: float, is_steady: bool) -> bool:
        """Return whether a window may prove to be silence once its texts are known."""
        least = min(self.no_speech, self.rejected_no_speech)
        return no_speech_prob > (min(least, self.steady_no_speech) if is_steady else least)

    def is_noise(self, no_speech_prob: float, rejected: int, is_last: bool) -> bool:
        """Return whether a window holds no speech, since so many of its texts were rejected.

        is_last: whether there are no more attempts.
        """
        enough = rejected >= _ENOUGH_REJECTED or is_last
        return no_speech_prob > self.rejected_no_speech and enough

    def rejects(self, ratio: float, avg_logprob: float) -> bool:
        """Return whether a text, which is not of silence, should be tried again."""
        return ratio > self.compression_ratio or avg_logprob < self.logprob
