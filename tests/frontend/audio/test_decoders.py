"""The processes that decode: what they yield, and what files and clients cannot do to them."""

import asyncio
import io
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import pytest_asyncio

from headrace.frontend.audio.decode import decode
from headrace.frontend.audio.decoders import (
    AudioDecoders,
    AudioFormat,
    AudioRejected,
    AudioSummary,
    AudioWindow,
)
from headrace.frontend.audio.log_mel import log_mel
from tests.frontend.audio.sounds import RATE, by_soundfile, noise, opened, talk
from tests.stand_ins.sitecustomize import ALLOCATES, DIES, SLEEPS, python_path

pytestmark = pytest.mark.asyncio(loop_scope="module")

FORMAT = AudioFormat(80)
SHORT = by_soundfile(noise(1))
LONG = by_soundfile(talk([4.5] * 30), format="FLAC")  # 150 s


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def decoders() -> AsyncIterator[AudioDecoders]:
    decoders = AudioDecoders()
    yield decoders
    await decoders.close()


async def parts(
    decoders: AudioDecoders, data: bytes | Path, max_duration_s: float = 600, timeout_s: float = 30
) -> list[AudioWindow | AudioSummary]:
    return [part async for part in decoders.windows(data, FORMAT, max_duration_s, timeout_s)]


async def reason(
    decoders: AudioDecoders, data: bytes, max_duration_s: float = 600, timeout_s: float = 30
) -> str:
    with pytest.raises(AudioRejected) as caught:
        await parts(decoders, data, max_duration_s, timeout_s)
    return caught.value.reason


def processes() -> list[psutil.Process]:
    ours = psutil.Process().children()
    return [each for each in ours if "headrace.frontend.audio.decoder" in each.cmdline()]


async def test_windows_and_the_summary(decoders: AudioDecoders, tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(LONG)
    with opened(LONG) as file:
        samples = np.concatenate(list(decode(file, RATE, 600)))
    for data in (LONG, tmp_path / "upload"):
        *windows, summary = await parts(decoders, data)
        assert summary == AudioSummary(150.0, 6)
        end_s = 0.0
        for index, window in enumerate(windows):
            assert isinstance(window, AudioWindow)
            assert (window.index, window.start_s) == (index, end_s)
            end_s += window.duration_s
            heard = samples[round(window.start_s * RATE) : round(end_s * RATE)]
            assert window.features == log_mel(heard, FORMAT).tobytes()
        assert end_s == 150.0
    assert len(processes()) == 1


async def test_silence_is_no_window(decoders: AudioDecoders) -> None:
    assert await parts(decoders, by_soundfile(noise(45, level=0))) == [AudioSummary(45.0, 0)]


async def test_bad_files(decoders: AudioDecoders) -> None:
    assert await reason(decoders, b"") == "the file is empty"
    assert "not audio" in await reason(decoders, b"some text")
    assert "truncated" in await reason(decoders, SHORT[:1000])
    assert await reason(decoders, LONG, max_duration_s=100) == "the audio is longer than 100 s"
    assert len(await parts(decoders, SHORT)) == 2


def opus_of_silence(duration_s: int) -> bytes:
    """Return hours in kilobytes: one packet of silence, over and over."""
    data = io.BytesIO()
    with av.open(data, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=48_000, options={"frame_duration": "60"})
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 48_000), np.int16), "s16", "mono")
        frame.sample_rate = 48_000
        packet = stream.encode(frame)[-1]
        content = bytes(packet)
        for index in range(duration_s * 50 // 3):
            each = av.Packet(content)
            each.stream = stream
            each.pts = each.dts = index * 2880
            each.duration = 2880
            each.time_base = stream.time_base or packet.time_base
            container.mux(each)
    return data.getvalue()


HOUR = opus_of_silence(3600)


async def test_hours_in_a_small_file_are_refused_in_flat_memory(decoders: AudioDecoders) -> None:
    data = HOUR
    assert len(data) < 700_000
    await parts(decoders, LONG)
    (process,) = processes()
    before = process.memory_info().rss
    started_s = time.monotonic()
    assert await reason(decoders, data, max_duration_s=1200) == "the audio is longer than 1200 s"
    assert time.monotonic() - started_s < 20
    assert process.memory_info().rss < before + 20 * 1024**2


async def test_early_close_leaves_the_process_to_the_next_file(decoders: AudioDecoders) -> None:
    await parts(decoders, SHORT)
    before = processes()
    async with aclosing(decoders.windows(LONG, FORMAT, 600, 30)) as windows:
        async for window in windows:
            assert isinstance(window, AudioWindow)
            await asyncio.sleep(0.5)  # the windows that are made ahead are there
            break
    assert len(await parts(decoders, SHORT)) == 2
    assert processes() == before


async def test_cancellation_while_decoding_ends_the_process(decoders: AudioDecoders) -> None:
    await parts(decoders, SHORT)
    before = processes()
    task = asyncio.create_task(parts(decoders, HOUR, 4000))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert processes() != before
    assert len(await parts(decoders, SHORT)) == 2


async def test_a_killed_process_costs_no_window(decoders: AudioDecoders) -> None:
    expected = await parts(decoders, LONG)
    (process,) = processes()
    got: list[AudioWindow | AudioSummary] = []
    async for part in decoders.windows(LONG, FORMAT, 600, 30):
        got.append(part)
        if len(got) == 3:
            process.kill()
    assert got == expected


async def test_files_of_one_window_share_few_processes(decoders: AudioDecoders) -> None:
    windows = [decoders.windows(SHORT, FORMAT, 600, 30) for _ in range(9)]
    await asyncio.gather(*(anext(each) for each in windows))  # none asks for its summary yet
    assert len(processes()) <= 2
    for each in windows:
        assert isinstance(await anext(each), AudioSummary)
        await each.aclose()


async def test_time_of_the_consumer_does_not_count(decoders: AudioDecoders) -> None:
    count = 0
    async for _ in decoders.windows(LONG, FORMAT, 600, 2.0):
        await asyncio.sleep(0.4)
        count += 1
    assert count == 7


async def test_slow_consumers_do_not_keep_others_waiting() -> None:
    decoders = AudioDecoders(size=4)
    slow = [decoders.windows(LONG, FORMAT, 600, 30) for _ in range(3)]
    for each in slow:
        await anext(each)
    assert len(await parts(decoders, SHORT)) == 2
    for each in slow:
        await each.aclose()
    await decoders.close()


async def test_files_beyond_the_size_wait_for_their_turn() -> None:
    decoders = AudioDecoders(size=1)
    first = decoders.windows(LONG, FORMAT, 600, 30)
    await anext(first)
    second = asyncio.create_task(parts(decoders, SHORT, timeout_s=5))
    await asyncio.sleep(0.2)
    assert not second.done()
    await first.aclose()
    assert len(await second) == 2
    await decoders.close()


async def test_idle_processes_end() -> None:
    before = processes()
    decoders = AudioDecoders(idle_s=0.1)
    await parts(decoders, SHORT)
    assert len(processes()) == len(before) + 1
    await asyncio.sleep(0.3)
    assert processes() == before
    assert len(await parts(decoders, SHORT)) == 2
    await decoders.close()
    assert processes() == before


async def test_close_ends_files_in_progress() -> None:
    decoders = AudioDecoders()
    windows = decoders.windows(LONG, FORMAT, 600, 30)
    await anext(windows)
    await decoders.close()
    with pytest.raises(AudioRejected):
        await anext(windows)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", python_path())


@pytest.mark.usefixtures("stand_ins")
async def test_files_that_bring_a_decoder_down() -> None:
    decoders = AudioDecoders()
    assert len(await parts(decoders, SHORT)) == 2
    assert "too much memory" in await reason(decoders, SHORT + ALLOCATES.encode())
    assert await reason(decoders, SHORT + DIES.encode()) == "the file could not be decoded"
    slow = await reason(decoders, SHORT + SLEEPS.encode(), timeout_s=0.5)
    assert slow == "decoding the file takes more than 0.5 s"
    assert len(await parts(decoders, SHORT)) == 2
    await decoders.close()


def held_bytes() -> int:
    """Return the size of the uploads that decoder processes have open."""
    files = [file for each in processes() for file in Path(f"/proc/{each.pid}/fd").iterdir()]
    return sum(file.stat().st_size for file in files if "headrace-audio" in str(file.readlink()))


async def test_uploads_leave_no_memory_behind(decoders: AudioDecoders) -> None:
    """An idle process may still have the file, if nothing more of it was wanted."""
    data = by_soundfile(talk([4.5] * 30))
    for wanted in (1, 1000):
        count = 0
        async with aclosing(decoders.windows(data, FORMAT, 600, 30)) as windows:
            async for _ in windows:
                count += 1
                if count == wanted:
                    break
        assert held_bytes() == 0
