"""Embeddings beside other libraries: options, texts, what is read of the sides, and the ratios."""

import asyncio
import base64
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from bench import embed
from bench.embed_peers.catalogue import ENVIRONMENTS, PEERS, REFERENCE, Precision
from bench.embed_peers.inside import encoder as inside
from bench.embed_peers.install import PeerError, last_line, prepared_folder, python_of
from bench.embed_peers.results import EmbedLoad, cosine_line, cosines, memory_lines
from bench.embed_peers.servers import EmbedServer, EmbedServerSettings
from bench.embed_peers.sides import Calls, EmbedSide, EmbedTurn, Vectors, encoder, tree_memory
from bench.embed_peers.starting import candidates
from bench.embed_peers.texts import Texts, max_tokens
from tests.bench.small_server import Answer, plain


class Scripted:
    """A side with given rates: for each batch size, or for each round."""

    batches = True

    def __init__(self, name: str, rates: dict[int, float], log: list[str]) -> None:
        self.name, self.is_ours = name, name.startswith("headrace")
        self.precision: Precision = "fp32"
        self._rates, self._log = rates, log

    def run(self, calls: Calls, batch: int) -> EmbedTurn:
        self._log.append(self.name)
        count = sum(map(len, calls))
        return EmbedTurn(count, count / self._rates[batch], 1.0)

    def vectors(self, texts: Sequence[str], batch: int) -> Vectors:
        return np.ones((len(texts), 2), np.float32)

    def memory(self) -> list[float]:
        return [1.0]


def side(name: str) -> EmbedSide:
    return Scripted(name, {}, [])


def turns(rates: Sequence[float], checksum: float = 0.0) -> list[EmbedTurn]:
    return [EmbedTurn(100, 100 / rate, checksum) for rate in rates]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer that adds two special tokens, and cuts and pads to 8."""
    folder = tmp_path_factory.mktemp("model")
    letters = "abcdefghij"
    words = [x + y + z + "x" for x in letters for y in letters for z in letters + "kl"]
    vocabulary = {word: number for number, word in enumerate(["[CLS]", "[SEP]", "[UNK]", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"max_position_embeddings": 512}')
    return folder


class TestOptions:
    def test_the_defaults_are_the_loads_of_the_document(self) -> None:
        given, flags = embed.parse_arguments(["model", "--cpu-kernels", "avx2"])
        assert flags == ["--cpu-kernels", "avx2"]
        assert (given.at_once, given.kinds) == ([1, 32, 256], ["short", "mixed", "long"])
        assert given.only == [peer.name for peer in PEERS]

    def test_files_of_llama_cpp(self) -> None:
        given, _ = embed.parse_arguments(["model", "--gguf", "fp32=a.gguf", "--gguf", "bf16=b"])
        assert given.ggufs == {"fp32": Path("a.gguf"), "bf16": Path("b")}

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            ([], "MODEL_FOLDER"),
            (["model", "--install", "there"], "MODEL_FOLDER"),
            (["model", "--kinds", "short,huge"], "'huge'"),
            (["model", "--only", "none"], "--only"),
            (["model", "--at-once", "1,0"], "--at-once"),
            (["model", "--gguf", "file"], "PRECISION=FILE"),
            (["model", "--rounds", "0"], "--rounds"),
        ],
    )
    def test_wrong_options(
        self, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            embed.parse_arguments(arguments)
        assert complaint in capsys.readouterr().err

    def test_sides_are_chosen_by_precision_and_the_reference_is_always_there(self) -> None:
        words = [
            "model",
            "--peers",
            "there",
            "--llama",
            "l",
            "--gguf",
            "int8=q",
            "--gguf",
            "fp32=f",
        ]
        given, flags = embed.parse_arguments([*words, "--precisions", "int8"])
        settings = EmbedServerSettings(given.model, 1, 16, 0, Path())
        names = [name for name, _ in candidates(given, flags, settings)]
        peers = ["onnx-int8", "openvino-int8", "fastembed-int8", "llama.cpp-int8"]
        assert names == ["headrace-int8", REFERENCE, *peers]

    def test_each_peer_has_an_environment_and_a_runtime(self) -> None:
        assert {peer.environment for peer in PEERS} == set(ENVIRONMENTS)
        assert {peer.runtime for peer in PEERS} - {""} == set(inside.RUNTIMES)
        assert len({peer.name for peer in PEERS}) == len(PEERS)
        assert REFERENCE in {peer.name for peer in PEERS}


class TestTexts:
    def test_lengths(self, model: Path) -> None:
        texts = Texts(model, 300)
        lengths = {
            kind: {texts.count(text) for text in texts.make(kind, 200)}
            for kind in ("short", "mixed", "long")
        }
        assert lengths["short"] == {16}
        assert lengths["long"] == {300}
        assert min(lengths["mixed"]) >= 16
        assert 200 < max(lengths["mixed"]) <= 256

    def test_no_text_is_longer_than_the_model_takes(self, model: Path) -> None:
        texts = Texts(model, 40)
        assert max(texts.count(text) for text in texts.make("mixed", 100)) == 40

    def test_the_least_limit_counts(self, model: Path, tmp_path: Path) -> None:
        assert max_tokens(model) == 512
        (tmp_path / "config.json").write_text('{"max_position_embeddings": 512}')
        (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
        assert max_tokens(tmp_path) == 256


class TestSides:
    def test_a_library_answers_with_its_vectors(self) -> None:
        seen: list[tuple[list[str], int]] = []

        def encode(texts: list[str], batch: int) -> object:
            seen.append((texts, batch))
            return [[len(text), 0.5] for text in texts]

        request = {"calls": [["a", "bb"], ["ccc"]], "batch": 4, "keep": True}
        answer = inside.answer(encode, request)
        assert seen == [(["a", "bb"], 4), (["ccc"], 4)]
        assert answer["checksum"] == 7.5
        vectors = np.frombuffer(base64.b64decode(str(answer["vectors"])), np.float32)
        assert vectors.tolist() == [1, 0.5, 2, 0.5, 3, 0.5]
        assert "vectors" not in inside.answer(encode, {"calls": [["a"]], "batch": 1})

    def test_a_library_that_does_not_load_is_named_with_its_error(self, tmp_path: Path) -> None:
        words = [sys.executable, "no-such-runtime", "model", "fp32", "1", "16"]
        started = encoder("gone", "fp32", words, tmp_path, 1)
        with pytest.raises(PeerError, match="KeyError: 'no-such-runtime'") as failure, started:
            pass
        assert "\n" not in str(failure.value)

    async def test_a_server_answers_texts_in_any_order(
        self, serve: Callable[[Answer], Awaitable[str]]
    ) -> None:
        asked: list[dict[str, Any]] = []

        async def answer(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            asked.append(request)
            data = [
                {"index": index, "embedding": _base64([len(text), 1.0])}
                for index, text in enumerate(request["input"])
            ]
            plain(writer, 200, {"data": data[::-1]})

        url = await serve(answer)

        def run() -> tuple[EmbedTurn, Vectors]:
            server = EmbedServer("headrace-fp32", "fp32", url, 1, 2)
            turn = server.run([["a", "bb", "ccc"]], 0)
            vectors = server.vectors(["dddd", "e"], 0)
            server.close()
            return turn, vectors

        turn, vectors = await asyncio.to_thread(run)
        assert vectors.tolist() == [[4, 1], [1, 1]]
        assert (turn.texts, turn.checksum) == (3, 9)
        assert sorted(len(request["input"]) for request in asked) == [1, 2, 2]
        assert {request["encoding_format"] for request in asked} == {"base64"}

    async def test_a_server_that_refuses_is_an_error(
        self, serve: Callable[[Answer], Awaitable[str]]
    ) -> None:
        async def answer(_: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            plain(writer, 400, {"error": "too long"})

        url = await serve(answer)

        def run() -> None:
            server = EmbedServer("infinity-fp32", "fp32", url, 1, 0)
            try:
                server.run([["a"]], 0)
            finally:
                server.close()

        with pytest.raises(PeerError, match=r"HTTP 400: .*too long"):
            await asyncio.to_thread(run)

    def test_memory_of_a_tree_of_processes(self) -> None:
        assert sum(tree_memory(os.getpid())) > 10

    def test_what_is_not_installed(self, tmp_path: Path, model: Path) -> None:
        with pytest.raises(PeerError, match=f"--install {tmp_path}"):
            python_of(tmp_path, "onnx")
        other = prepared_folder(tmp_path, tmp_path, "onnx")
        assert prepared_folder(tmp_path, model, "onnx") != other

    def test_the_error_of_a_log(self) -> None:
        log = "loading\nTraceback:\n  File x\nValueError: no such model\n\nbye\n"
        assert last_line(log) == "ValueError: no such model"
        assert last_line("one\ntwo\n") == "two"
        assert last_line("") == ""


def _base64(values: list[float]) -> str:
    return base64.b64encode(np.array(values, np.float32).tobytes()).decode()


class TestRounds:
    def test_batch_sizes_are_tried_and_sides_take_turns(self, model: Path) -> None:
        log: list[str] = []
        sides = [
            Scripted("headrace-fp32", {8: 30, 32: 60}, log),
            Scripted(REFERENCE, {8: 40, 32: 20}, log),
        ]
        given, _ = embed.parse_arguments(["model", "--texts", "64", "--rounds", "2"])
        load = embed.measure(sides, Texts(model, 64), given, "mixed", 32)
        assert load.batches == {"headrace-fp32": 32, REFERENCE: 8}
        assert load.ratios("headrace-fp32", REFERENCE) == pytest.approx([1.5, 1.5])
        assert log[-4:] == ["headrace-fp32", REFERENCE, REFERENCE, "headrace-fp32"]
        assert load.turns[REFERENCE][0].texts == 64

    def test_a_peer_that_fails_is_left_out_of_the_load(
        self, model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Refusing(Scripted):
            def run(self, calls: Calls, batch: int) -> EmbedTurn:
                raise PeerError("HTTP 400: too many texts")

        sides = [Scripted("headrace-fp32", {8: 1, 32: 1}, []), Refusing("llama.cpp-fp32", {}, [])]
        given, _ = embed.parse_arguments(["model", "--texts", "32", "--rounds", "1"])
        load = embed.measure(sides, Texts(model, 64), given, "mixed", 32)
        assert list(load.turns) == ["headrace-fp32"]
        assert load.lines(sides)[1].endswith("no peer in this precision")
        assert "llama.cpp-fp32: left out: HTTP 400: too many" in capsys.readouterr().err
        with pytest.raises(PeerError):
            embed.measure([Refusing("headrace-fp32", {}, [])], Texts(model, 64), given, "long", 1)


class TestResults:
    def test_ratios_are_of_rounds_and_to_the_fastest_peer(self) -> None:
        names = ["headrace-fp32", REFERENCE, "onnx-fp32"]
        rates = {names[0]: [150, 640, 130], names[1]: [60, 90, 50], names[2]: [100, 400, 100]}
        load = EmbedLoad("mixed", 32, {name: turns(rates[name]) for name in names}, {names[2]: 8})
        lines = load.lines([side(name) for name in names])
        assert lines[0] == "mixed, 32 at once, texts/s:"
        assert lines[1] == (
            "  headrace-fp32 150.0, over the best (onnx-fp32) 1.50, rounds 1.30 to 1.60"
            " (bar 1.5: ok)"
        )
        assert lines[2] == "    onnx-fp32 100.0 (batch 8), ratio 1.50, rounds 1.30 to 1.60"
        assert lines[3].startswith(f"    {REFERENCE} 60.0, ratio 2.60")
        assert json.loads(json.dumps(load.as_json()))["batches"] == {"onnx-fp32": 8}

    @pytest.mark.parametrize(
        ("kind", "at_once", "told"),
        [("mixed", 1, "(bar 1: ok)"), ("mixed", 256, "(bar 1.5: MISSED)"), ("long", 32, "1.20")],
    )
    def test_bars(self, kind: Any, at_once: int, told: str) -> None:
        given = {"headrace-fp32": turns([12]), REFERENCE: turns([10])}
        line = EmbedLoad(kind, at_once, given, {}).lines([side(name) for name in given])[1]
        assert line.endswith(told)

    def test_another_precision_is_no_peer(self) -> None:
        other = side("onnx-int8")
        other.precision = "int8"
        given = {"headrace-fp32": turns([12]), other.name: turns([10])}
        lines = EmbedLoad("mixed", 1, given, {}).lines([side("headrace-fp32"), other])
        assert lines[1].endswith("no peer in this precision")

    @pytest.mark.parametrize("checksum", [80.0, float("nan")])
    def test_vectors_of_other_texts_show(self, checksum: float) -> None:
        given = {"headrace-fp32": turns([12], checksum), REFERENCE: turns([10], 20.0)}
        lines = EmbedLoad("mixed", 1, given, {}).lines([side(name) for name in given])
        assert "headrace-fp32: the vectors' sum is off" in lines[-1]
        given["headrace-fp32"] = turns([12], 21.0)
        right = EmbedLoad("mixed", 1, given, {}).lines([side(name) for name in given])
        assert "off" not in right[-1]

    def test_cosines(self) -> None:
        a = np.array([[1, 0], [3, 4]], np.float32)
        b = np.array([[2, 0], [4, 3]], np.float32)
        assert cosines(a, b).tolist() == pytest.approx([1, 0.96])
        line, good = cosine_line(side("headrace-fp32"), a, b)
        assert not good
        assert "lowest 0.9600000 (bar 0.999999: MISSED)" in line
        assert cosine_line(side("onnx-fp32"), a, b)[1]
        assert not cosine_line(side("headrace-fp32"), a * np.float32("nan"), b)[1]

    def test_memory_is_compared_with_the_least(self) -> None:
        sides = [side(name) for name in ("headrace-fp32", REFERENCE, "onnx-fp32")]
        memory = {"headrace-fp32": [300.0, 100.0], REFERENCE: [250.0], "onnx-fp32": [600.0]}
        lines = memory_lines(sides, memory)
        assert lines[1] == "  headrace-fp32 400 (largest of 2 processes 300)"
        assert lines[-1] == f"  headrace-fp32 over {REFERENCE} 1.60 (bar 1.3: MISSED)"
