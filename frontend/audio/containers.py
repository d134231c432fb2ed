"""What the first bytes of a file say: its format, and whether its end is missing."""

import os
import struct
from typing import BinaryIO

# Sizes that writers of streams leave in the header, because they do not know the length.
_NO_SIZE = 0x7FF00000
_MISCOUNTED = 64  # bytes by which writers are wrong that count the header, too
_MAX_PARTS = 4096  # chunks, or boxes
_MP4_BOXES = frozenset(
    b"ftyp moov mdat free skip wide moof mfra sidx styp uuid meta pdin udta".split()
)
_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"


def is_for_soundfile(file: BinaryIO) -> bool:
    """Return whether the file looks like one of the formats that soundfile must decode.

    Only those whose header says how much audio there is. Of streams (MP3, Ogg) libsndfile reads no
    more than the first of several one after another, or than it estimates, without an error.
    """
    head = _read(file, 0, 12)
    kind = head[8:12]
    return (
        (head[:4] in (b"RIFF", b"RIFX", b"RF64") and kind == b"WAVE")
        or (head[:4] == b"FORM" and kind in (b"AIFF", b"AIFC"))
        or head[:4] in (b"fLaC", b"caff", b".snd", b"riff")
    )


def is_known(file: BinaryIO) -> bool:
    """Return whether the file begins as one with audio does: if it has none, it is broken."""
    head = _read(file, 0, 12)
    return (
        is_for_soundfile(file)
        or head[:4] in (b"OggS", _EBML)
        or head[:3] == b"ID3"
        or head[4:8] in _MP4_BOXES
    )


def is_truncated(file: BinaryIO) -> bool:
    """Return whether the header names more bytes of audio than the file has.

    Streams (MP3, Ogg, AAC, live WebM) may end anywhere: for them the answer is no.
    """
    size = os.fstat(file.fileno()).st_size
    head = _read(file, 0, 12)
    if head[:4] in (b"RIFF", b"RIFX", b"FORM") and head[8:] in (b"WAVE", b"AIFF", b"AIFC"):
        return _is_chunk_truncated(file, size, "<I" if head[:4] == b"RIFF" else ">I")
    if head[4:8] in _MP4_BOXES:
        return _is_box_truncated(file, size)
    return head[:4] == _EBML and _is_segment_truncated(file, size)


def _is_chunk_truncated(file: BinaryIO, size: int, number: str) -> bool:
    """Look at the chunk with the samples of a WAV or AIFF file."""
    position = 12
    for _ in range(_MAX_PARTS):
        header = _read(file, position, 8)
        if len(header) < 8:
            return True  # it has no samples, not even none of them
        (length,) = struct.unpack(number, header[4:])
        if header[:4] in (b"data", b"SSND"):
            return bool(length < _NO_SIZE and position + 8 + length > size + _MISCOUNTED)
        position += 8 + length + length % 2
    return False


def _is_box_truncated(file: BinaryIO, size: int) -> bool:
    """Look at the outermost boxes of an MP4 file."""
    position = 0
    for _ in range(_MAX_PARTS):
        header = _read(file, position, 16)
        if header[4:8] not in _MP4_BOXES:  # the end, or something appended
            return False
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:  # 0: up to the end of the file
            return False
        position += length
        if position > size:
            return True
    return False


def _is_segment_truncated(file: BinaryIO, size: int) -> bool:
    """Look at the segment of a Matroska or WebM file."""
    position = 4
    length, width = _ebml_size(_read(file, position, 8))
    position += width + (length or 0)
    if _read(file, position, 4) != _SEGMENT:
        return False
    length, width = _ebml_size(_read(file, position + 4, 8))
    return length is not None and position + 4 + width + length > size


def _ebml_size(data: bytes) -> tuple[int | None, int]:
    """Return a size and the number of its bytes. None: unknown, of a live stream."""
    if not data or not data[0]:
        return None, 1
    width = 9 - data[0].bit_length()
    value = int.from_bytes(data[:width], "big") - (1 << 7 * width)
    return (None if value == (1 << 7 * width) - 1 else value), width


def _read(file: BinaryIO, position: int, count: int) -> bytes:
    return os.pread(file.fileno(), count, min(position, 1 << 62))
