"""Decode by soundfile (libsndfile)."""

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import soundfile

from headrace.frontend.audio.messages import AudioRejected
from headrace.frontend.audio.mono import MAX_CHANNELS, Block, Samples, mix_down

_BLOCK_SAMPLES = 1 << 16  # of all channels together
# Formats whose header says how many samples there are; those of the others are estimates.
_EXACT = frozenset(("WAV", "WAVEX", "RF64", "W64", "AIFF", "FLAC", "CAF", "AU"))


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
        if not 0 < sound.channels <= MAX_CHANNELS:
            raise AudioRejected(f"the file has more than {MAX_CHANNELS} channels")
        is_exact = sound.format in _EXACT and 0 < sound.frames < 1 << 48
        if is_exact and sound.frames > max_duration_s * sound.samplerate:
            raise AudioRejected.too_long(max_duration_s)
        count = 0
        for block in _read(sound):
            count += len(block)
            yield sound.samplerate, mix_down(block)
        if not count:
            raise NotForSoundfile
        if is_exact and count < sound.frames:
            raise AudioRejected.truncated()


def _read(sound: soundfile.SoundFile) -> Iterator[Samples]:
    # SoundFile.read trusts the header's number of samples, which is an estimate for some MP3 files.
    buffer = np.empty((_BLOCK_SAMPLES // sound.channels, sound.channels), np.float32)
    while True:
        try:
            count = sound.buffer_read_into(buffer, "float32")
        except soundfile.LibsndfileError as error:
            raise AudioRejected("the file is broken or truncated") from error
        if not count:
            return
        yield buffer[:count]
