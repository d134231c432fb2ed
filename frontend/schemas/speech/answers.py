"""The answers of routes that transcribe, for the API's description."""

from typing import Any

from pydantic import BaseModel, RootModel


class AudioUsage(BaseModel):
    type: str
    seconds: int


class SpeechWord(BaseModel):
    word: str
    start: float
    end: float


class SpeechSegment(BaseModel):
    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float | None


class SpeechLogprob(BaseModel):
    token: str
    bytes: list[int]
    logprob: float


class SpeechText(BaseModel):
    text: str
    logprobs: list[SpeechLogprob] | None = None
    usage: AudioUsage


class VerboseSpeechText(BaseModel):
    task: str
    language: str
    duration: float
    text: str
    segments: list[SpeechSegment] | None = None
    words: list[SpeechWord] | None = None
    usage: AudioUsage


class SpeechAnswer(RootModel[SpeechText | VerboseSpeechText]):
    """A text, by itself or with its times."""


SpeechBody = dict[str, Any]
