import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.protocol.config import CpuKernels, Dtype, EngineConfig
from headrace.protocol.speech import Alignment
from headrace.protocol.to_frontend import Output
from headrace.workers.engine.engine import Engine
from headrace.workers.errors import RejectedByEngine
from headrace.workers.native.library import usable_kernels
from headrace.workers.speech.build import build_speech_engine, build_speech_runner
from headrace.workers.speech.runner import SpeechRunner
from tests.workers.speech.windows import (
    START,
    engine_of,
    features_of,
    load_reference,
    request,
    run_all,
    tokens,
    window,
)


def transcript(folder: Path, seed: int, count: int) -> tuple[tuple[int, ...], list[float]]:
    """What transformers' own layers write, the likeliest token after the other, and their log
    probabilities, which differ by window more than tokens do."""
    model = load_reference(folder)
    ids, logprobs = list(START), []
    with torch.inference_mode():
        encoded = model.model.encoder(features_of(seed)[None])
        for _ in range(count):
            logits = model(encoder_outputs=encoded, decoder_input_ids=torch.tensor([ids])).logits
            found = torch.log_softmax(logits[0, -1], dim=-1).max(dim=-1)
            ids.append(int(found.indices))
            logprobs.append(float(found.values))
    return tuple(ids[len(START) :]), logprobs


def check_transcript(folder: Path, seed: int, outputs: list[Output]) -> None:
    ids, logprobs = transcript(folder, seed, 20)
    assert tokens(outputs) == ids
    found = [each.logprob for output in outputs for each in output.logprobs or ()]
    assert found == pytest.approx(logprobs, abs=2e-3)


@pytest.fixture(scope="module")
def engine(whisper_folder: Path) -> Engine:
    return engine_of(whisper_folder)


@pytest.mark.parametrize("kernels", ["torch", *usable_kernels()])
def test_the_tokens_are_those_of_transformers(whisper_folder: Path, kernels: CpuKernels) -> None:
    engine = engine_of(whisper_folder, cpu_kernels=kernels)
    found = run_all(engine, [request(f"{n}", window(n), logprobs=0) for n in range(3)])
    for seed in range(3):
        check_transcript(whisper_folder, seed, found[f"{seed}"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_transcript_is_the_same_alone_and_in_company(whisper_folder: Path, dtype: Dtype) -> None:
    engine = engine_of(whisper_folder, dtype=dtype)
    together = run_all(
        engine, [request(f"{n}", window(n), temperature=0.8, seed=n) for n in range(12)]
    )
    for n in (0, 7, 11):
        alone = run_all(engine, [request("x", window(n), temperature=0.8, seed=n)])
        assert tokens(alone["x"]) == tokens(together[f"{n}"])


def test_a_replay_continues(engine: Engine) -> None:
    whole = tokens(run_all(engine, [request("x", window(1), temperature=1.0)])["x"])
    rest = run_all(engine, [request("x", window(1), temperature=1.0, output=whole[:9])])
    assert tokens(rest["x"]) == whole[9:]


def test_one_window_is_encoded_once_for_many_requests(engine: Engine) -> None:
    runner = engine.runner
    assert isinstance(runner, SpeechRunner)
    before = runner.slots.encoded
    run_all(engine, [request(f"{n}", window(50), seed=n, temperature=1.0) for n in range(5)])
    run_all(engine, [request("later", window(50))])
    assert runner.slots.encoded == before + 1


def test_more_windows_than_slots(whisper_folder: Path) -> None:
    engine = engine_of(whisper_folder, max_num_seqs=2)
    found = run_all(engine, [request(f"{n}", window(n), logprobs=0) for n in range(7)])
    for n in range(7):
        check_transcript(whisper_folder, n, found[f"{n}"])


def test_an_aborted_request_gives_its_slot_back(whisper_folder: Path) -> None:
    engine = engine_of(whisper_folder, max_num_seqs=1)
    engine.add(request("gone", window(1)))
    engine.step()
    engine.abort("gone")
    assert tokens(run_all(engine, [request("x", window(2))])["x"])


def test_preempted_transcripts_are_the_same(whisper_folder: Path) -> None:
    """A cache of few blocks makes the engine take them back."""
    roomy = run_all(
        engine_of(whisper_folder),
        [request(f"{n}", window(n), max_tokens=50) for n in range(6)],
    )
    bytes_of_block = 2 * 2 * 64 * 4 * 16  # layers, keys and values, size, bytes, tokens
    tight = engine_of(whisper_folder, kv_cache_bytes=8 * bytes_of_block)
    found = run_all(tight, [request(f"{n}", window(n), max_tokens=50) for n in range(6)])
    assert tight.stats().preemptions > 0
    assert {name: tokens(out) for name, out in found.items()} == {
        name: tokens(out) for name, out in roomy.items()
    }


def test_memory_comes_back_after_sleep(whisper_folder: Path) -> None:
    engine = engine_of(whisper_folder)
    before = run_all(engine, [request("x", window(3))])
    engine.release()
    assert engine.memory_use()[1] == 0
    engine.restore_cache()
    assert tokens(run_all(engine, [request("x", window(3))])["x"]) == tokens(before["x"])
    engine.release()
    engine.drop_weights()
    config = EngineConfig(dtype="float32", max_num_seqs=8)
    engine.restore_runner(build_speech_runner(whisper_folder, config, 1, lambda line: None))
    engine.restore_cache()
    assert tokens(run_all(engine, [request("x", window(3))])["x"]) == tokens(before["x"])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"audio": None}, "audio"),
        ({"audio": window(1).__class__(b"1234", b"x")}, "audio"),
        ({"audio": window(1, suppressed_ids=(300,))}, "audio"),
        ({"audio": window(1, no_speech_id=5, no_speech_position=3)}, "no_speech_position"),
        ({"prompt_logprobs": 1, "audio": window(1)}, "prompt_logprobs"),
    ],
)
def test_what_does_not_fit_is_rejected(engine: Engine, change: dict[str, Any], field: str) -> None:
    with pytest.raises(RejectedByEngine, match=field):
        engine.add(request("x", **change))
    assert not engine.has_work


def test_the_probability_of_silence(engine: Engine, whisper_folder: Path) -> None:
    model = load_reference(whisper_folder)
    with torch.inference_mode():
        output = model(input_features=features_of(4)[None], decoder_input_ids=torch.tensor([START]))
    expected = torch.softmax(output.logits[0], dim=-1)
    for position in range(len(START)):  # the last is the row that is sampled from, too
        audio = window(4, no_speech_id=11, no_speech_position=position, suppressed_ids=(11,))
        found = run_all(engine, [request("x", audio, max_tokens=1)])["x"][0].admission
        assert found is not None
        assert found.no_speech_prob == pytest.approx(float(expected[position, 11]), rel=1e-3)


def test_text_engines_take_no_audio(whisper_folder: Path) -> None:
    from headrace.workers.engine.assemble import assemble_engine
    from headrace.workers.engine.fake_runner import FakeRunner

    runner = FakeRunner(vocab_size=300, max_model_len=64, num_blocks=8, block_size=16)
    engine = assemble_engine(runner, max_num_seqs=4, max_num_batched_tokens=64)
    with pytest.raises(RejectedByEngine, match="audio"):
        engine.add(request("x", window(1)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_program_from_the_cache_writes_the_same(
    whisper_folder: Path, tmp_path: Path, dtype: Dtype
) -> None:
    lines: list[str] = []
    config = EngineConfig(dtype=dtype, max_num_seqs=8)

    def load() -> Engine:
        return build_speech_engine(whisper_folder, config, 1, lines.append, cache_folder=tmp_path)

    audio = window(6, alignment=Alignment(1, 30))
    requests = [request("x", window(6), logprobs=0), request("y", audio, max_tokens=1)]
    made, cached = (run_all(load(), requests) for _ in range(2))
    assert sum("program from the cache" in line for line in lines) == 1
    for name in ("x", "y"):
        assert tokens(made[name]) == tokens(cached[name])
    first, second = (found["y"][0].admission for found in (made, cached))
    assert first is not None
    assert second is not None
    assert first.token_starts == second.token_starts


_CACHED_START = """
import sys
from pathlib import Path
from headrace.protocol.config import EngineConfig
from headrace.workers.speech.build import build_speech_engine
model, cache = map(Path, sys.argv[1:])
config = EngineConfig(dtype="float32", threads=1)
build_speech_engine(model, config, 1, print, cache_folder=cache)
print("transformers" in sys.modules)
"""


def test_a_cached_start_imports_no_transformers(whisper_folder: Path, tmp_path: Path) -> None:
    config = EngineConfig(dtype="float32", threads=1)
    build_speech_engine(whisper_folder, config, 1, lambda line: None, cache_folder=tmp_path)
    command = [sys.executable, "-c", _CACHED_START, str(whisper_folder), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "program from the cache" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
