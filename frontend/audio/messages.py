"""What a frontend and its decoder processes say to each other, and what the API's code gets."""

from typing import Self

from headrace.protocol.codec import Codec, Message


class AudioRejected(Exception):
    """The file cannot be transcribed. `reason` may be shown to a client."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    @classmethod
    def broken(cls) -> Self:
        return cls("the file is broken or truncated")

    @classmethod
    def truncated(cls) -> Self:
        return cls("the file is truncated: it ends before its audio does")

    @classmethod
    def too_long(cls, max_duration_s: float) -> Self:
        return cls(f"the audio is longer than {max_duration_s:g} s")

    @classmethod
    def undecodable(cls) -> Self:
        return cls("the file could not be decoded")


class AudioFormat(Message):
    """The features that a model takes.

    window_s: seconds of one window; shorter audio is padded with silence.
    hop, n_fft: samples between the starts of two frames, and in one frame.
    """

    mel_bins: int
    window_s: int = 30
    sample_rate: int = 16000
    hop: int = 160
    n_fft: int = 400


class DecodeFile(Message, tag=1):
    """Decode the file whose descriptor comes with this message; answer with its first window.

    It replaces the file before, which may not be at its end.
    """

    format: AudioFormat
    max_duration_s: float


class DecodeNext(Message, tag=2):
    """Answer with the next window of the file."""


class DecoderReady(Message, tag=1):
    """The process has started."""


class AudioWindow(Message, tag=2):
    """A part of a recording, in its order; between two there may be silence.

    features: float32 in C order, [mel bins, frames].
    change_db: how much its sound changes; see headrace.frontend.audio.sound_change.
    """

    index: int
    start_s: float
    duration_s: float
    features: bytes
    change_db: float


class AudioSummary(Message, tag=3):
    """The end of a recording.

    duration_s: of the whole recording as decoded.
    """

    duration_s: float
    windows: int


class AudioRefusal(Message, tag=4):
    """The file cannot be transcribed; the reason may be shown to a client."""

    reason: str


DecoderOrder = DecodeFile | DecodeNext
DecoderAnswer = DecoderReady | AudioWindow | AudioSummary | AudioRefusal

ORDERS: Codec[DecoderOrder] = Codec(DecoderOrder)
ANSWERS: Codec[DecoderAnswer] = Codec(DecoderAnswer)
