"""Decode a file, block by block, to mono samples at one rate."""

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import soxr

from headrace.frontend.audio.containers import is_for_soundfile, is_known, is_truncated
from headrace.frontend.audio.messages import AudioRejected
from headrace.frontend.audio.mono import Block, Samples
from headrace.frontend.audio.soundfile_blocks import NotForSoundfile, soundfile_blocks


def decode(file: BinaryIO, sample_rate: int, max_duration_s: float) -> Iterator[Samples]:
    """Yield a file's samples. Raises AudioRejected, perhaps after some of them."""
    if is_truncated(file):
        raise AudioRejected.truncated()
    return _at_rate(_limited(_blocks(file, max_duration_s), max_duration_s), sample_rate)


def _blocks(file: BinaryIO, max_duration_s: float) -> Iterator[Block]:
    if is_for_soundfile(file):
        try:
            yield from soundfile_blocks(file, max_duration_s)
            return
        except NotForSoundfile:  # a WAV file whose size was never filled in, say
            pass
    # Takes 18 MB of each process, which one that reads WAV or FLAC need not have.
    from headrace.frontend.audio.pyav_blocks import NotAudio, pyav_blocks

    try:
        yield from pyav_blocks(file)
    except NotAudio:
        if is_known(file):
            raise AudioRejected.broken() from None
        raise


def _limited(blocks: Iterator[Block], max_duration_s: float) -> Iterator[Block]:
    duration_s = 0.0
    for rate, samples in blocks:
        duration_s += len(samples) / rate
        if duration_s > max_duration_s:
            raise AudioRejected.too_long(max_duration_s)
        yield rate, samples
    if not duration_s:
        raise AudioRejected("there is no audio in the file: its duration is 0 s")


def _at_rate(blocks: Iterator[Block], sample_rate: int) -> Iterator[Samples]:
    """Resample; the rate of a stream may change."""
    resampler = None
    current = sample_rate
    for rate, samples in blocks:
        if rate != current:
            yield from _rest(resampler)
            current = rate
            resampler = soxr.ResampleStream(rate, sample_rate, 1) if rate != sample_rate else None
        yield samples if resampler is None else resampler.resample_chunk(samples)
    yield from _rest(resampler)


def _rest(resampler: soxr.ResampleStream | None) -> Iterator[Samples]:
    if resampler is not None:
        yield resampler.resample_chunk(np.empty(0, np.float32), last=True)
