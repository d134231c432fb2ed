"""Options of models that transcribe: limits of recordings, and when a window is decoded again."""

from typing import Annotated

from pydantic import Field

from headrace.protocol.engine_config import Frozen, Positive


class AudioOptions(Frozen):
    """Limits of recordings that clients send, and of the work to read them."""

    max_audio_clip_filesize_mb: Annotated[float, Field(gt=0, le=1024 * 1024)] = Field(
        25.0, description="size of the largest file to transcribe, in MiB"
    )
    max_audio_decode_duration_s: Annotated[float, Field(gt=0)] = Field(
        3600.0, description="seconds of the longest recording to transcribe"
    )
    audio_decode_timeout_s: Annotated[float, Field(gt=0)] = Field(
        120.0, description="seconds for a recording to be decoded and cut into windows"
    )
    audio_decoders: Positive = Field(
        16,
        description="recordings that each frontend decodes at once, each in a process; more wait",
    )
    max_audio_windows: Positive = Field(
        32, description="windows of a recording that are transcribed at once"
    )


class SpeechOptions(Frozen):
    """Defaults of when a window is decoded again, at a higher temperature, or left out.

    Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022).
    """

    temperature_fallback: bool = Field(
        True,
        description=(
            "transcribe a window again at higher temperatures (0.2 to 1) where its text at 0 "
            "repeats itself or is unlikely"
        ),
    )
    compression_ratio_threshold: Annotated[float, Field(gt=0)] = Field(
        2.4,
        description="bytes of a window's text, over its compressed bytes, above which it repeats "
        "itself",
    )
    logprob_threshold: Annotated[float, Field(le=0)] = Field(
        -1.0,
        description="mean log probability of a window's tokens below which its text is unlikely",
    )
    no_speech_threshold: Annotated[float, Field(ge=0, le=1)] = Field(
        0.6,
        description="probability of silence above which a window of unlikely text is left out",
    )
    steady_no_speech_threshold: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2,
        description="probability of silence above which a window of steady sound (noise, hum, "
        "clicks) is left out, if its text has less than half of the log probability's threshold",
    )
    rejected_no_speech_threshold: Annotated[float, Field(ge=0, le=1)] = Field(
        0.35,
        description="probability of silence above which a window is left out whose first two texts "
        "fail the thresholds",
    )
