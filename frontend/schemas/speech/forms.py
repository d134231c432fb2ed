"""The forms of POST /v1/audio/transcriptions and /v1/audio/translations, besides the file.

Forms hold texts alone: numbers and booleans are read from them, and a field without a text is as
one that is missing.
"""

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from headrace.frontend.schemas.fields import (
    INT64,
    Float,
    Ignored,
    Int,
    Name,
    RequestModel,
    at_most,
    bad_value,
    unsupported,
    wrong_type,
)
from headrace.frontend.schemas.generation import MAX_TEMPERATURE
from headrace.frontend.schemas.limits import exceeded, limit_of

MAX_PROMPT_CHARS = 16 * 1024
SpeechFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
Granularity = Literal["word", "segment"]
_LISTS = ("timestamp_granularities[]", "include[]")


def _known_format(value: Any) -> Any:
    if value == "diarized_json":
        raise bad_value(
            "diarized_json is not supported by this server: its models tell no speakers"
        )
    return value


def _json_object(value: Any) -> Any:
    """Parse a field that is JSON within a form."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise wrong_type("must be JSON") from error


Text = Annotated[str, Field(max_length=MAX_PROMPT_CHARS)]
Probability = Annotated[Float, Field(ge=0, le=1)]
Word = Annotated[str, Field(max_length=64)]


class SpeechForm(RequestModel):
    """The fields that both routes have.

    language: of the recording, as a code or its English name; None: it is detected.
    use_beam_search: write the first attempt at a window by a beam search of width n.
    prompt: text that goes before each window's. hotwords: words to expect, before that.
    temperature: None or 0: 0 first, and higher ones where its text fails the thresholds below.
    temperature_fallback, compression_ratio_threshold, logprob_threshold, no_speech_threshold,
        steady_no_speech_threshold, rejected_no_speech_threshold: see SpeechOptions; None: the
        operator's.
    """

    model_config = ConfigDict(strict=False)

    task: ClassVar[Literal["transcribe", "translate"]]

    file: Ignored = Field(
        None, json_schema_extra={"type": "string", "format": "binary"}, description="The recording."
    )
    model: Name | None = None
    language: Word | None = None
    to_language: Word | None = None
    prompt: Text = ""
    hotwords: Text | None = None
    response_format: Annotated[SpeechFormat, BeforeValidator(_known_format)] = "json"
    temperature: Annotated[Float, Field(ge=0, le=MAX_TEMPERATURE)] | None = None
    top_p: Annotated[Float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[Int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[Float, Field(ge=0, le=1)] | None = None
    seed: Annotated[Int, Field(ge=-INT64, lt=INT64)] | None = None
    frequency_penalty: Annotated[Float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[Float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[Float, Field(ge=1e-3, le=1e3)] | None = None
    max_completion_tokens: Annotated[Int, Field(ge=1, lt=2**31)] | None = None
    stream: bool | None = False
    stream_include_usage: bool | None = False
    stream_continuous_usage_stats: bool | None = False
    temperature_fallback: bool | None = None
    compression_ratio_threshold: Annotated[Float, Field(gt=0)] | None = None
    logprob_threshold: Annotated[Float, Field(le=0)] | None = None
    no_speech_threshold: Probability | None = None
    steady_no_speech_threshold: Probability | None = None
    rejected_no_speech_threshold: Probability | None = None
    user: Annotated[str, Field(max_length=1024)] | None = None
    priority: Annotated[Int, Field(ge=-(2**31), lt=2**31)] = 0
    request_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None

    use_beam_search: bool = False
    n: Annotated[Int, Field(ge=1)] = 1
    length_penalty: Annotated[Float, Field(ge=-10, le=10)] = 1.0
    include_stop_str_in_output: Ignored = None  # there are no stop strings
    watermarking: Annotated[bool | None, unsupported(None, False)] = None
    vllm_xargs: Annotated[Any, BeforeValidator(_json_object), unsupported(None, {})] = None

    @field_validator("use_beam_search")
    @classmethod
    def _of_whole_answers(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("stream"):
            raise bad_value("cannot be streamed")
        return value

    @field_validator("n")
    @classmethod
    def _of_beams_alone(cls, value: int, info: ValidationInfo) -> int:
        if value > 1 and not info.data.get("use_beam_search"):
            raise bad_value("is of beams alone (use_beam_search=true)")
        if value > limit_of("max_beams"):
            raise exceeded("max_beams", "must be at most {}")
        return value

    @field_validator("stream_include_usage", "stream_continuous_usage_stats")
    @classmethod
    def _of_streams_alone(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        if value and not info.data.get("stream"):
            raise bad_value("is of streams alone (stream=true)")
        return value

    @field_validator("stream")
    @classmethod
    def _of_plain_text(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        shape = info.data.get("response_format")
        if value and shape not in (None, "json", "text"):
            raise bad_value(f"excludes the response_format {shape}")
        return value

    @property
    def has_segments(self) -> bool:
        """Whether the answer tells times, so that outputs must."""
        return self.response_format in ("verbose_json", "srt", "vtt")

    @property
    def has_words(self) -> bool:
        return False

    @property
    def lists_segments(self) -> bool:
        return self.response_format == "verbose_json"

    @property
    def has_logprobs(self) -> bool:
        return False


class TranscriptionForm(SpeechForm):
    """A request for the text of a recording, in its own language.

    timestamp_granularities: what verbose_json tells the times of.
    include: what else the answer holds.
    """

    task: ClassVar[Literal["transcribe", "translate"]] = "transcribe"

    timestamp_granularities: Annotated[list[Granularity], at_most(2)] = Field(
        default_factory=list, alias="timestamp_granularities[]"
    )
    include: Annotated[list[Literal["logprobs"]], at_most(8)] = Field(
        default_factory=list, alias="include[]"
    )
    chunking_strategy: Annotated[Any, unsupported(None, "auto")] = None
    known_speaker_names: Annotated[Any, unsupported(None)] = Field(
        None, alias="known_speaker_names[]"
    )
    known_speaker_references: Annotated[Any, unsupported(None)] = Field(
        None, alias="known_speaker_references[]"
    )

    @field_validator("timestamp_granularities")
    @classmethod
    def _of_verbose_answers(
        cls, value: list[Granularity], info: ValidationInfo
    ) -> list[Granularity]:
        if value and info.data.get("response_format") != "verbose_json":
            raise bad_value("is of the response_format verbose_json alone")
        return value

    @property
    def has_words(self) -> bool:
        return "word" in self.timestamp_granularities

    @property
    def lists_segments(self) -> bool:
        return self.response_format == "verbose_json" and (
            not self.timestamp_granularities or "segment" in self.timestamp_granularities
        )

    @property
    def has_logprobs(self) -> bool:
        return bool(self.include) and self.response_format == "json"


class TranslationForm(SpeechForm):
    """A request for the English text of a recording in another language."""

    task: ClassVar[Literal["transcribe", "translate"]] = "translate"


def form_values(fields: list[tuple[str, str]]) -> dict[str, Any]:
    """Return a form's fields for validation: those that are lists as lists, others as their last
    value, and those without a text not at all."""
    values: dict[str, Any] = {}
    for name, text in fields:
        listed = f"{name}[]" if f"{name}[]" in _LISTS else name
        if text == "":
            continue
        if listed in _LISTS:
            values.setdefault(listed, []).append(text)
        else:
            values[name] = text
    return values
