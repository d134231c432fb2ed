"""Transcription beside other libraries: options, errors, ratios, files of whisper.cpp, forms."""

import asyncio
import json
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from gguf import GGMLQuantizationType, quants
from tokenizers import Tokenizer

from bench.embed_peers.install import PeerError
from bench.speech import __main__ as speech
from bench.speech import comparison, ggml
from bench.speech.catalogue import ENVIRONMENTS, PEERS, REFERENCE, Precision, SpeechPeer
from bench.speech.errors import (
    Segments,
    WordErrors,
    are_ordered,
    normal,
    pooled,
    time_differences,
    word_errors,
)
from bench.speech.inside import transcriber
from bench.speech.material import Recording, read_set, real_recordings
from bench.speech.results import SpeechLoad, memory_lines
from bench.speech.sentences import sentences
from bench.speech.sides import SpeechServer, SpeechTurn, Task, library, told
from tests.speech_models import SPEECH


class Scripted:
    """A side that hears the same in each recording, at given speeds."""

    batches = False

    def __init__(self, name: str, heard: str, rates: Sequence[float] = (1,)) -> None:
        self.name, self.heard, self.is_ours = name, heard, name.startswith("headrace")
        self.precision: Precision = "fp32"
        self._rates = list(rates)

    def run(self, task: Task) -> SpeechTurn:
        rate = self._rates.pop(0) if len(self._rates) > 1 else self._rates[0]
        texts = [self.heard] * len(task.recordings)
        segments = [[(0.0, 1.5, text)] if text else [] for text in texts]
        return SpeechTurn(task.audio, task.audio / rate, texts, segments)

    def memory(self) -> list[float]:
        return [70.0, 30.0]


def recording(text: str) -> Recording:
    return Recording(Path("x.wav"), "en", 10.0, text)


class TestOptions:
    def test_the_defaults_are_the_loads_of_the_document(self) -> None:
        given, flags = speech.parse_arguments(["model", "--set", "s", "--cpu-kernels", "avx2"])
        assert flags == ["--cpu-kernels", "avx2"]
        assert (given.at_once, given.long, given.wer) == ([1, 8, 16], True, False)
        assert given.only == [peer.name for peer in PEERS]

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            ([], "MODEL_FOLDER"),
            (["model"], "--set"),
            (["model", "--set", "s", "--install", "there"], "MODEL_FOLDER"),
            (["model", "--set", "s", "--only", "none"], "--only"),
            (["model", "--set", "s", "--at-once", "1,0"], "--at-once"),
        ],
    )
    def test_wrong_options(
        self, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            speech.parse_arguments(arguments)
        assert complaint in capsys.readouterr().err

    def test_each_peer_has_an_environment_and_a_runtime(self) -> None:
        peers = (*PEERS, REFERENCE)
        assert {peer.environment for peer in peers} == set(ENVIRONMENTS)
        assert {peer.runtime for peer in peers} == set(transcriber.RUNTIMES)
        assert len({peer.name for peer in peers}) == len(peers)


class TestErrors:
    def test_case_punctuation_and_numbers_are_no_errors(self) -> None:
        said = "The meeting begins at nine o'clock, Mr. Smith."
        assert word_errors(said, "the meeting begins at 9 o'clock mister smith").wrong == 0

    @pytest.mark.parametrize(
        ("heard", "wrong"),
        [("a b c d", 0), ("a x c d", 1), ("a c d", 1), ("a b c d e", 1), ("", 4), ("d c b a", 4)],
    )
    def test_wrong_words(self, heard: str, wrong: int) -> None:
        assert word_errors("a b c d", heard) == WordErrors(wrong, 4)

    def test_words_of_silence_are_invented(self) -> None:
        assert word_errors("", "Thank you.") == WordErrors(2, 0)
        assert pooled([WordErrors(2, 0), WordErrors(1, 4)]).rate == 0.75

    def test_times_of_the_segments_that_both_have(self) -> None:
        ours: Segments = [(0.0, 1.0, " Yes."), (1.0, 2.0, "No")]
        theirs: Segments = [(0.1, 1.5, "yes"), (2.0, 3.0, "Perhaps")]
        assert time_differences(ours, theirs) == pytest.approx([0.1, 0.5])
        assert normal(" Yes. ") == "yes"

    def test_order(self) -> None:
        assert are_ordered([(0, 1, "a"), (1, 1, "b")])
        assert not are_ordered([(0, 1, "a"), (3, 2, "b")])
        assert not are_ordered([(2, 3, "a"), (1, 4, "b")])


class TestComparison:
    said = "one two three four five six seven eight nine ten"

    def compare(self, ours: str, quiet: str = "") -> bool:
        sides = [Scripted("headrace-fp32", ours), Scripted("transformers-long", self.said)]
        recordings = {"clip": recording(self.said)}
        if quiet:
            recordings["silence"] = recording("")
        return comparison.compare(sides, recordings, ["silence"])

    def test_as_few_errors_as_the_reference(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.compare(self.said)
        told = capsys.readouterr().out
        assert "headrace-fp32: 0 of 1 words wrong (0.0%) (ok)" in told
        assert "1 of 1 segments alike, times off by 0.00 s" in told

    def test_more_errors(self) -> None:
        assert not self.compare("one two three")

    def test_words_in_silence(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert not self.compare(self.said, "silence")
        assert "silence: MISSED: heard 'one two" in capsys.readouterr().out


class TestMaterial:
    def test_sentences_are_those_of_the_seed(self) -> None:
        first, again, other = sentences(1), sentences(1), sentences(2)
        found = [next(first) for _ in range(5)]
        assert found == [next(again) for _ in range(5)]
        assert found != [next(other) for _ in range(5)]
        assert len(set(found)) == 5

    def test_each_recording_for_tests_has_its_text(self) -> None:
        texts = {path.stem: text for path, text in real_recordings(SPEECH)}
        assert texts["kennedy"].endswith("ask what you can do for your country.")
        assert all(texts.values())
        assert {path.stem for path in SPEECH.glob("*.opus")} == set(texts)

    def test_a_set_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("Hallo.\n")
        manifest = {"a": {"language": "de", "seconds": 2.5, "english": "Hello."}}
        (tmp_path / "set.json").write_text(json.dumps(manifest))
        expected = Recording(tmp_path / "a.wav", "de", 2.5, "Hallo.", "Hello.")
        assert read_set(tmp_path) == {"a": expected}


class TestRounds:
    def load(self, ours: Sequence[float], theirs: Sequence[float]) -> SpeechLoad:
        sides = [Scripted("headrace-fp32", "a b", ours), Scripted("peer", "a", theirs)]
        given, _ = speech.parse_arguments(["model", "--set", "s", "--rounds", "3"])
        memory = speech.PeakMemory()
        found = speech.measure(sides, [recording("a b")], given, "1 clip", 8, memory)
        assert memory.values == {"headrace-fp32": [70, 30], "peer": [70, 30]}
        return found

    def test_ratios_are_of_rounds(self) -> None:
        load = self.load([1, 30, 20, 36], [1, 20, 20, 30])  # the first warms up
        assert load.ratios("headrace-fp32", "peer") == pytest.approx([1.5, 1.0, 1.2])
        sides = [Scripted("headrace-fp32", ""), Scripted("peer", "")]
        assert load.lines(sides) == [
            "1 clip, seconds of audio a second (words wrong):",
            "  headrace-fp32 30.0 (0.0%), over the best (peer) 1.20, rounds 1.00 to 1.50"
            " (bar 1.2: ok)",
            "    peer 20.0 (50.0%), ratio 1.20, rounds 1.00 to 1.50",
        ]

    def test_a_peer_that_fails_is_left_out(self, capsys: pytest.CaptureFixture[str]) -> None:
        class Failing(Scripted):
            def run(self, task: Task) -> SpeechTurn:
                raise PeerError("it cannot")

        sides = [Scripted("headrace-fp32", "a"), Failing("peer", "")]
        given, _ = speech.parse_arguments(["model", "--set", "s", "--rounds", "1"])
        load = speech.measure(sides, [recording("a")], given, "x", 1, speech.PeakMemory())
        assert list(load.turns) == ["headrace-fp32"]
        assert "peer: left out: it cannot" in capsys.readouterr().err

    def test_a_peer_that_fails_later_is_left_out_too(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Tired(Scripted):
            def run(self, task: Task) -> SpeechTurn:
                self.calls = getattr(self, "calls", 0) + 1
                if self.calls == 3:
                    raise PeerError("it has ended")
                return super().run(task)

        sides = [Scripted("headrace-fp32", "a"), Tired("peer", "a")]
        given, _ = speech.parse_arguments(["model", "--set", "s", "--rounds", "3"])
        load = speech.measure(sides, [recording("a")], given, "x", 1, speech.PeakMemory())
        assert list(load.turns) == ["headrace-fp32"]
        assert len(load.turns["headrace-fp32"]) == 3
        assert "peer: left out: it has ended" in capsys.readouterr().err

    def test_memory_is_compared_with_the_least(self) -> None:
        sides = [Scripted(name, "") for name in ("headrace-fp32", "a", "b")]
        lines = memory_lines(sides, {"headrace-fp32": [200, 60], "a": [300], "b": [200]})
        assert lines[1] == "  headrace-fp32 260 (200 + 60)"
        assert lines[-1] == "  headrace-fp32 over b 1.30 (bar 1.3: ok)"


class TestSides:
    def test_what_does_not_start_is_told(self, tmp_path: Path) -> None:
        peer = SpeechPeer("gone", "whispercpp", "no_such", "bf16", "f16")
        started = library(peer, Path(sys.executable), tmp_path, 1, tmp_path)
        with pytest.raises(PeerError, match="KeyError: 'no_such'"), started:
            pass

    def test_a_failed_assertion_is_the_reason(self) -> None:
        log = "loading\n/x.cpp:1: GGML_ASSERT(type == F16) failed\n#38 in _start ()\n"
        assert told(log) == "/x.cpp:1: GGML_ASSERT(type == F16) failed"

    async def test_recordings_are_uploaded_as_forms(self, tmp_path: Path) -> None:
        bodies = list[bytes]()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked = await reader.readuntil(b"\r\n\r\n")
            length = int(asked.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            bodies.append(asked + await reader.readexactly(length))
            text = b'{"text": " Hello.", "segments": [{"start": 0, "end": 1, "text": " Hello."}]}'
            head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            writer.write(head % len(text) + text)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()[:2]
        soundfile.write(tmp_path / "a.wav", np.zeros(160, np.float32), 16000)
        one = Recording(tmp_path / "a.wav", "en", 5.0, "hello")

        def run() -> SpeechTurn:
            side = SpeechServer("headrace-fp32", "fp32", f"http://{host}:{port}", 1)
            try:
                return side.run(Task([one, one], 2, times=True))
            finally:
                side.close()

        turn = await asyncio.to_thread(run)
        server.close()
        assert (turn.audio, turn.texts) == (10.0, ["Hello.", "Hello."])
        assert turn.segments == [[(0, 1, " Hello.")]] * 2
        assert len(bodies) == 2
        body = bodies[0]
        assert body.startswith(b"POST /v1/audio/transcriptions HTTP/1.1\r\n")
        assert b'name="temperature_fallback"\r\n\r\nfalse\r\n' in body
        assert (tmp_path / "a.wav").read_bytes() in body


class TestGgml:
    def test_a_file_is_read_back(self, whisper_tiny_en: Path, tmp_path: Path) -> None:
        ggml.write(whisper_tiny_en, tmp_path / "m.bin", "q8_0")
        data = (tmp_path / "m.bin").read_bytes()
        header = struct.unpack_from("<12i", data)
        assert header[1:11] == (51864, 1500, 384, 6, 4, 448, 384, 6, 4, 80)
        assert header[11] == 2007
        at = 48 + 8 + 80 * 201 * 4
        (count,) = struct.unpack_from("<i", data, at)
        assert count == 50256
        at += 4
        words = []
        for _ in range(count):
            (length,) = struct.unpack_from("<i", data, at)
            words.append(data[at + 4 : at + 4 + length])
            at += 4 + length
        tokenizer = Tokenizer.from_file(str(whisper_tiny_en / "tokenizer.json"))
        assert words[3363].decode() == tokenizer.decode([3363])
        tensors = read_tensors(data, at)
        assert len(tensors) == 167
        assert tensors["encoder.conv1.bias"] == ([1, 384], 0)
        assert tensors["encoder.conv1.weight"] == ([3, 80, 384], 1)
        assert tensors["decoder.positional_embedding"] == ([384, 448], 0)
        assert tensors["decoder.blocks.3.cross_attn.query.weight"] == ([384, 384], 8)
        assert tensors["encoder.blocks.0.mlp.2.weight"] == ([1536, 384], 8)

    def test_types_of_other_files(self) -> None:
        assert ggml.tensor_type("encoder.conv2.weight", 3, "f16") == "f16"
        assert ggml.tensor_type("encoder.conv2.bias", 2, "f16") == "f32"
        assert ggml.tensor_type("encoder.blocks.0.mlp.0.weight", 2, "f16") == "f16"
        assert ggml.tensor_type("encoder.blocks.0.mlp.0.bias", 1, "f16") == "f32"


def read_tensors(data: bytes, at: int) -> dict[str, tuple[list[int], int]]:
    """Return the shapes and types of a file's tensors; it must end with the last one."""
    found = {}
    while at < len(data):
        dimensions, length, kind = struct.unpack_from("<3i", data, at)
        at += 12
        shape = list(struct.unpack_from(f"<{dimensions}i", data, at))
        at += 4 * dimensions
        name = data[at : at + length].decode()
        at += length
        count = int(np.prod(shape))
        if kind == 8:
            at += (
                count
                // 32
                * quants.quantize(np.zeros((1, 32), np.float32), GGMLQuantizationType.Q8_0).nbytes
            )
        else:
            at += count * (4 if kind == 0 else 2)
        found[name] = (shape, kind)
    assert at == len(data)
    return found
