"""Decode by soundfile (libsndfile)."""

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import soundfile

from headrace.frontend.audio.messages import AudioRejected
from headrace.frontend.audio.mono import Block, Samples, check_kind, mix_down

_NO_COUNT = 1 << 48  # frames; the header does not say how many
_BLOCK_SAMPLES = 1 << 16  # of all channels together


class NotForSoundfile(Exception):
    """soundfile cannot read the file, or finds nothing in it."""


def soundfile_blocks(file: BinaryIO, max_duration_s: float) -> Iterator[Block]:
    """Yield the samples of a file.

    Raises NotForSoundfile before the first of them, AudioRejected also later.
    """
    file.seek(0)
    try:
        sound = soundfile.SoundFile(file.fileno(), closefd=False)
    except (soundfile.LibsndfileError, ValueError) as error:
        raise NotForSoundfile from error
    with sound:
        check_kind(sound.samplerate, sound.channels)
        if not 0 < sound.frames < _NO_COUNT:
            raise NotForSoundfile
        if sound.frames > max_duration_s * sound.samplerate:
            raise AudioRejected.too_long(max_duration_s)
        for block in _read(sound):
            yield sound.samplerate, mix_down(block)


def _read(sound: soundfile.SoundFile) -> Iterator[Samples]:
    buffer = np.empty((_BLOCK_SAMPLES // sound.channels, sound.channels), np.float32)
    left = sound.frames  # none more: after them there may be tags, which libFLAC takes for errors
    while left:
        try:
            count = sound.buffer_read_into(buffer[:left], "float32")
        except soundfile.LibsndfileError as error:
            raise AudioRejected.broken() from error
        if not count:
            raise AudioRejected.truncated()
        yield buffer[:count]
        left -= count
