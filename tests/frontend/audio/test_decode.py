"""Files of all kinds become mono samples at 16 kHz; others are refused, with the reason."""

import io
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from headrace.frontend.audio.decode import _at_rate, decode
from headrace.frontend.audio.messages import AudioRejected
from headrace.frontend.audio.pyav_blocks import pyav_blocks
from tests.frontend.audio.sounds import (
    RATE,
    TONE_HZ,
    Samples,
    by_pyav,
    by_soundfile,
    noise,
    opened,
    tone,
)

LIMIT_S = 60.0
SECONDS = 2.0


def decoded(data: bytes, max_duration_s: float = LIMIT_S) -> Samples:
    with opened(data) as file:
        return np.concatenate(list(decode(file, RATE, max_duration_s)))


def reason(data: bytes, max_duration_s: float = LIMIT_S) -> str:
    with pytest.raises(AudioRejected) as caught:
        decoded(data, max_duration_s)
    return caught.value.reason


def loudest_hz(samples: Samples) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * RATE / len(samples))


def sound(format: str, subtype: str, rate: int = RATE, channels: int = 1) -> bytes:
    return by_soundfile(tone(SECONDS, rate, channels), rate, format, subtype)


def container(format: str, codec: str, rate: int = 48_000, **options: str) -> bytes:
    return by_pyav(tone(SECONDS, rate), rate, format, codec, options)


def without_count(flac: bytes) -> bytes:
    """Return the file of an encoder that could not go back to its header."""
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


# The file, and the seconds that an encoder may add to the recording's length.
KINDS: dict[str, tuple[Callable[[], bytes], float]] = {
    "wav, 8 bits": (lambda: sound("WAV", "PCM_U8"), 0),
    "wav, 16 bits": (lambda: sound("WAV", "PCM_16"), 0),
    "wav, 24 bits, stereo": (lambda: sound("WAV", "PCM_24", 44_100, 2), 0),
    "wav, 32 bits": (lambda: sound("WAV", "PCM_32", 96_000), 0),
    "wav, float": (lambda: sound("WAV", "FLOAT", 48_000, 2), 0),
    "wav, double": (lambda: sound("WAV", "DOUBLE", 11_025), 0),
    "wav, mu-law": (lambda: sound("WAV", "ULAW", 8_000), 0),
    "aiff": (lambda: sound("AIFF", "PCM_16", 22_050), 0),
    "flac": (lambda: sound("FLAC", "PCM_16", 44_100, 2), 0),
    "flac, live": (lambda: without_count(sound("FLAC", "PCM_16")), 0),
    "flac, 6 channels": (lambda: sound("FLAC", "PCM_24", 48_000, 6), 0),
    "mp3, Xing": (lambda: container("mp3", "libmp3lame"), 0),
    "mp3, no Xing": (lambda: container("mp3", "libmp3lame", write_xing="0"), 0.06),
    "mp3, LAME tag": (lambda: sound("MP3", "MPEG_LAYER_III", 44_100, 2), 0),
    "ogg, vorbis": (lambda: sound("OGG", "VORBIS", 44_100, 2), 0),
    "ogg, opus": (lambda: sound("OGG", "OPUS", 48_000), 0),
    "ogg, opus of 16 kHz": (lambda: sound("OGG", "OPUS", 16_000), 0),
    "m4a": (lambda: container("ipod", "aac"), 0.05),
    "mp4, in fragments": (
        lambda: container("mp4", "aac", movflags="frag_keyframe+empty_moov"),
        0.05,
    ),
    "m4a, alac": (lambda: container("ipod", "alac", 44_100), 0),
    "adts": (lambda: container("adts", "aac"), 0.05),
    "webm": (lambda: container("webm", "libopus"), 0),
    "webm, live": (
        lambda: by_pyav(tone(SECONDS, 48_000), 48_000, "webm", "libopus", seekable=False),
        0.02,
    ),
    "matroska, pcm": (lambda: container("matroska", "pcm_s16le"), 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_all_kinds(kind: str) -> None:
    make, added_s = KINDS[kind]
    samples = decoded(make())
    assert samples.dtype == np.float32
    assert SECONDS - 0.001 <= len(samples) / RATE <= SECONDS + added_s + 0.001
    assert abs(loudest_hz(samples) - TONE_HZ) <= 1
    assert abs(samples[RATE // 2 : -RATE // 2].std() - 0.5 / np.sqrt(2)) < 0.03


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_the_length_and_each_place(rate: int) -> None:
    samples = np.zeros(rate, np.float32)
    samples[rate // 4] = 1.0
    result = decoded(by_soundfile(samples, rate, "WAV", "FLOAT"))
    assert len(result) == RATE
    assert np.argmax(np.abs(result)) == RATE // 4


def test_channels_are_mixed_by_their_mean() -> None:
    left, right = noise(1, seed=1), noise(1, seed=2)
    stereo = np.stack([left, right], axis=1)
    assert np.array_equal(
        decoded(by_soundfile(stereo, RATE, "WAV", "FLOAT")), stereo.mean(axis=1, dtype=np.float32)
    )


def test_what_is_no_number_becomes_silence() -> None:
    samples = noise(1)
    samples[100:104] = [np.nan, np.inf, -np.inf, 1e30]
    result = decoded(by_soundfile(samples, RATE, "WAV", "FLOAT"))
    assert np.array_equal(result[100:104], np.array([0, 0, 0, 1e6], np.float32))
    assert np.array_equal(result[104:], samples[104:])
    stereo = np.stack([samples, np.full_like(samples, np.inf)], axis=1)
    assert not decoded(by_soundfile(stereo, RATE, "WAV", "FLOAT")).any()


def test_loud_mp3_is_not_clipped() -> None:
    square = np.sign(tone(1, 44_100))
    assert decoded(by_soundfile(square, 44_100, "MP3")).max() > 1.05


def mp3(seconds: float, bit_rate: int) -> bytes:
    """Return MPEG frames alone, without a tag that names their number."""
    options = {"write_xing": "0", "id3v2_version": "0"}
    wave = tone(seconds, 48_000)
    return by_pyav(wave, 48_000, "mp3", "libmp3lame", options, bit_rate=bit_rate)


@pytest.mark.parametrize(
    ("format", "subtype"), [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("OGG", "OPUS")]
)
def test_recordings_one_after_another_are_one(format: str, subtype: str) -> None:
    data = sound(format, subtype) * 3
    assert 3 * SECONDS <= len(decoded(data)) / RATE < 3 * SECONDS + 0.3


@pytest.mark.parametrize("rates", [(32_000, 320_000), (320_000, 32_000)])
def test_samples_are_counted_and_not_read_from_the_header(rates: tuple[int, int]) -> None:
    """The header's number is an estimate by the first bit rate."""
    data = mp3(2, rates[0]) + mp3(2, rates[1])
    estimate = soundfile.info(io.BytesIO(data)).frames / 48_000
    assert estimate > 10 if rates[0] < rates[1] else estimate < 3
    assert 4.0 < len(decoded(data)) / RATE < 4.2


def test_opus_is_the_same_by_both_decoders() -> None:
    data = by_soundfile(noise(2), RATE, "OGG", "OPUS")
    with av.open(io.BytesIO(data)) as container:
        assert container.streams.audio[0].rate == 48_000
    with soundfile.SoundFile(io.BytesIO(data)) as sound:
        assert sound.samplerate == RATE
    with opened(data) as file:
        other = np.concatenate(list(_at_rate(pyav_blocks(file), RATE)))
    ours = decoded(data)
    assert len(ours) == len(other) == 2 * RATE
    # The bands that Opus keeps of such audio, up to 8 kHz, end where a resampler's filter does.
    assert np.corrcoef(ours, other)[0, 1] > 0.95


# Streams may end anywhere: their ends are not known to be missing.
ENDLESS = ("flac, live", "mp3", "ogg", "adts", "webm, live")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith(ENDLESS)])
def test_truncated_files_are_refused(kind: str) -> None:
    data = KINDS[kind][0]()
    for part in (0.1, 0.5, 0.9, 0.99):
        assert "truncated" in reason(data[: int(part * len(data))])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith(ENDLESS)])
def test_streams_end_where_they_end(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SECONDS", 8.0)  # more than a page of Ogg
    data = KINDS[kind][0]()
    samples = decoded(data[: len(data) // 2])
    assert 1.5 < len(samples) / RATE < 5.5
    assert abs(loudest_hz(samples) - TONE_HZ) <= 2


def wav(data_size: int, samples: bytes, rate: int = RATE, channels: int = 1) -> bytes:
    block = 2 * channels
    kind = struct.pack("<HHIIHH", 1, channels, rate, rate * block & 0xFFFFFFFF, block, 16)
    head = b"WAVEfmt " + struct.pack("<I", 16) + kind + b"data" + struct.pack("<I", data_size)
    return b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + head + samples


SAMPLES = (tone(1) * 32767).astype("<i2").tobytes()


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF - 36])
def test_wav_of_a_stream_whose_size_was_not_filled_in(size: int) -> None:
    samples = decoded(wav(size, SAMPLES))
    assert len(samples) == RATE
    assert abs(loudest_hz(samples) - TONE_HZ) <= 1


def test_wav_of_a_writer_that_counted_its_header() -> None:
    assert len(decoded(wav(len(SAMPLES) + 44, SAMPLES))) == RATE


BAD = {
    "text": (b"This is no audio at all.\n" * 100, "not audio"),
    "a byte": (b"\0", "not audio"),
    "random": (np.random.default_rng(0).bytes(50_000), "not audio"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(1000), "not audio"),
    "zip": (b"PK\x03\x04" + bytes(1000), "not audio"),
    "44 bytes": (wav(0, b""), "0 s"),
    "44 bytes of more": (wav(1000, b""), "truncated"),
    "20 bytes": (wav(0, b"")[:20], "truncated"),
    "absurd size": (wav(0x70000000, SAMPLES), "truncated"),
    "absurd rate": (wav(len(SAMPLES), SAMPLES, rate=4_000_000_000), "broken"),
    "rate of 1 Hz": (wav(len(SAMPLES), SAMPLES, rate=1), "rate"),
    "no channel": (wav(len(SAMPLES), SAMPLES, channels=0), "broken"),
    "playlist": (b"#EXTM3U\n#EXTINF:10,\nother.wav\n#EXT-X-ENDLIST\n", "not audio"),
    "session": (b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n", "not audio"),
    "manifest": (b'<?xml version="1.0"?><MPD type="static"></MPD>', "not audio"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_recording_is_refused(kind: str) -> None:
    data, expected = BAD[kind]
    assert expected in reason(data)


def test_no_other_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyAV itself opens the files that a list names, even if the list has been read from memory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.wav").write_bytes(KINDS["wav, 16 bits"][0]())
    data = b"ffconcat version 1.0\nfile secret.wav\n"
    with av.open(io.BytesIO(data), "r") as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) == SECONDS * RATE
    assert "not audio" in reason(data)


@pytest.mark.parametrize("kind", ["wav, 16 bits", "mp3, Xing", "ogg, opus", "flac", "m4a", "webm"])
def test_files_that_are_something_else_too(kind: str) -> None:
    """A page or an archive after the audio is not looked at, before it is not audio."""
    data = KINDS[kind][0]()
    other = b"<html><script>alert(1)</script></html>" + b"PK\x05\x06" + bytes(18)
    assert abs(len(decoded(data + other)) / len(decoded(data)) - 1) < 0.02
    if kind != "mp3, Xing":  # a stream, which may be joined anywhere
        assert "not audio" in reason(other + data)


def video(with_sound: bool) -> bytes:
    with opened(b"") as file:
        with av.open(file, "w", format="matroska") as target:
            pictures = target.add_stream("mpeg4", rate=10)
            pictures.width = pictures.height = 32
            sound = target.add_stream("aac", rate=48_000) if with_sound else None
            for _ in range(10):
                frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
                target.mux(pictures.encode(frame))
            target.mux(pictures.encode(None))
            if sound is not None:
                samples = av.AudioFrame.from_ndarray(tone(1, 48_000)[None], "fltp", "mono")
                samples.sample_rate = 48_000
                target.mux(sound.encode(samples))
                target.mux(sound.encode(None))
        file.seek(0)
        return file.read()


def test_videos_with_sound() -> None:
    assert abs(loudest_hz(decoded(video(with_sound=True))) - TONE_HZ) <= 2
    assert reason(video(with_sound=False)) == "the file has no audio stream"


def test_limit_on_the_duration() -> None:
    for kind in ("wav, 16 bits", "mp3, no Xing", "ogg, opus", "m4a", "webm, live"):
        data = KINDS[kind][0]()
        assert reason(data, 1.5) == "the audio is longer than 1.5 s"
        assert len(decoded(data, 2.1)) >= 2 * RATE


def test_frontends_import_no_decoding_library() -> None:
    code = (
        "import sys, headrace.frontend.audio.decoders;"
        "print(sorted({'numpy', 'soundfile', 'av', 'soxr'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, check=True)
    assert output.stdout == b"[]\n"
