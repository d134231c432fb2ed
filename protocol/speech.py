"""What a request on a model that transcribes brings besides its tokens."""

from headrace.protocol.codec import Message


class TimestampRule(Message):
    """Makes an output alternate text and pairs of timestamps, which never decrease.

    Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022).

    first_id: the token of 0 s; those above it follow in equal steps.
    max_initial: how many of these steps the first timestamp may be after 0 s.
    """

    first_id: int
    max_initial: int


class Alignment(Message):
    """Asks when the last tokens of a prompt are spoken, instead of an output that matters.

    first: the number of the first of these tokens in the prompt.
    frames: how many of the encoder's vectors hold sound; the others are padding.
    """

    first: int
    frames: int


class AudioInput(Message):
    """A window of a recording: what the encoder takes at once.

    features: log-mel numbers of the window, padded to its full length, as the model's files say:
        float32 [mel bins, frames], in the byte order of this machine.
    digest: tells the features from others: requests with the same share what the encoder makes.
    suppressed_ids: tokens that are never sampled. first_suppressed_ids: not as the first token.
    timestamps: None: the output has none.
    no_speech_id: the token whose probability after the prompt's token number
        `no_speech_position` tells silence from speech; None: it is not wanted.
    alignment: None: no token's time is wanted.
    """

    features: bytes
    digest: bytes
    suppressed_ids: tuple[int, ...] = ()
    first_suppressed_ids: tuple[int, ...] = ()
    timestamps: TimestampRule | None = None
    no_speech_id: int | None = None
    no_speech_position: int = 0
    alignment: Alignment | None = None
