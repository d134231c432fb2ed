"""Decode by PyAV (FFmpeg): what soundfile does not read."""

import io
from collections.abc import Iterator
from typing import Any, BinaryIO

import av
import numpy as np
import numpy.typing as npt

from headrace.frontend.audio.messages import AudioRejected
from headrace.frontend.audio.mono import Block, check_kind, mix_down

# No format that refers to other files (playlists and lists of segments among them), no devices.
_FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,asf,au,avi,caf,eac3,flac,flv,mov,mp3,matroska,mpeg,mpegts,ogg,"
    "wav,w64"
)
# No decoder of pictures: those of an audio file's cover, or of a video, are never looked at.
_DECODERS = frozenset(
    """aac aac_latm ac3 adpcm_ima_qt adpcm_ima_wav adpcm_ms adpcm_swf alac amrnb amrwb eac3 flac
    gsm gsm_ms mp1 mp1float mp2 mp2float mp3 mp3float nellymoser opus libopus pcm_alaw pcm_bluray
    pcm_dvd pcm_f32be pcm_f32le pcm_f64be pcm_f64le pcm_mulaw pcm_s16be pcm_s16le pcm_s24be
    pcm_s24le pcm_s32be pcm_s32le pcm_s8 pcm_u8 speex libspeex vorbis libvorbis wmapro wmav1 wmav2
    wmavoice""".split()
)
_OPTIONS = {
    "format_whitelist": _FORMATS,
    "codec_whitelist": ",".join(sorted(_DECODERS)),
    "protocol_whitelist": "none",
}
_FULL_SCALE = {"u1": 128.0, "i2": 32768.0, "i4": 2147483648.0, "i8": 9223372036854775808.0}
_BLOCK_SAMPLES = 1 << 15  # of all channels together
_MIN_GOOD = 0.5  # of the packets; with fewer, the file is noise that looks like a format

_Rows = npt.NDArray[np.floating]  # [samples, channels]


class NotAudio(AudioRejected):
    """FFmpeg does not recognize the file."""


def pyav_blocks(file: BinaryIO) -> Iterator[Block]:
    """Yield the samples of a file's first audio stream. Raises AudioRejected if it has none."""
    file.seek(0)
    reader: Any = _Reader(file)
    try:
        container = av.open(reader, container_options=_OPTIONS, io_open=_refuse_to_open)
    except (av.FFmpegError, ValueError) as error:
        raise NotAudio("the file is not audio, or of a format that is not supported") from error
    with container:
        if not container.streams.audio:
            raise AudioRejected("the file has no audio stream")
        stream = container.streams.audio[0]
        context = stream.codec_context
        if context is None or context.codec.name not in _DECODERS:
            raise AudioRejected("the file's audio is of a format that is not supported")
        context.thread_count = 1
        yield from _gathered(_decode(container, stream))


def _gathered(frames: Iterator[tuple[int, _Rows]]) -> Iterator[Block]:
    """Join short frames: what follows costs as much for one of them as for a hundred."""
    rows: list[_Rows] = []
    count = 0
    kind = (0, 0)
    for rate, samples in frames:
        if rows and (kind != (rate, samples.shape[1]) or count >= _BLOCK_SAMPLES):
            yield kind[0], mix_down(np.concatenate(rows))
            rows, count = [], 0
        kind = (rate, samples.shape[1])
        rows.append(samples)
        count += samples.size
    if rows:
        yield kind[0], mix_down(np.concatenate(rows))


def _decode(container: Any, stream: Any) -> Iterator[tuple[int, _Rows]]:
    good = bad = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:  # a stream's end that is missing
            packet = None
        if packet is None:
            break
        try:
            frames = packet.decode()
        except (av.FFmpegError, ValueError):
            bad += 1
            continue
        good += 1
        for frame in frames:
            if frame.samples:
                check_kind(frame.sample_rate, frame.layout.nb_channels)
                yield frame.sample_rate, _samples(frame)
    if bad and good <= _MIN_GOOD * (good + bad):
        raise AudioRejected.broken()


def _samples(frame: av.AudioFrame) -> _Rows:
    """Return a frame's samples as floats, [samples, channels]."""
    channels = frame.layout.nb_channels
    values: npt.NDArray[Any] = frame.to_ndarray()
    rows: npt.NDArray[Any] = values.T if frame.format.is_planar else values.reshape(-1, channels)
    if rows.dtype.kind == "f":
        return rows
    floats: _Rows = rows.astype(np.float32 if rows.dtype.itemsize <= 2 else np.float64)
    if rows.dtype.kind == "u":
        floats -= 128
    floats /= _FULL_SCALE[rows.dtype.str[1:]]
    return floats


class _Reader(io.RawIOBase):
    """A file without a name: FFmpeg would guess the format from it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _refuse_to_open(url: str, flags: int, options: dict[str, str]) -> Any:
    raise PermissionError("a file may not name other files")
