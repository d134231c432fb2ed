"""The runner for GPUs: overlapped steps, tables, recorded decodes, against transformers' own texts.

On a CPU a reference stands for the attention, and running again for the graphs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from headrace.workers.attention.hook import AttentionHook
from headrace.workers.attention.varlen import VarlenBackend
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.torch_runner.choose_backend import BackendChoice, choose_backend
from headrace.workers.torch_runner.cuda_graphs import CudaGraphCapture
from headrace.workers.torch_runner.decode_graphs import Bucket, CapturedGraph, choose_buckets
from headrace.workers.torch_runner.device_runner import DeviceRunner, try_capture_decodes
from headrace.workers.torch_runner.loading import load_model
from headrace.workers.torch_runner.make_runner import capture_graphs, make_torch_runner
from headrace.workers.torch_runner.model_runner import ModelRunner
from headrace.workers.torch_runner.self_check import check_model
from tests.workers.attention.reference_varlen import reference_varlen
from tests.workers.driving import request, run
from tests.workers.recording import Rerun
from tests.workers.tiny_models import save_tiny
from tests.workers.torch_runner.test_parity import (
    NEAR,
    NEW,
    Loaded,
    arrivals,
    check_all,
    make_prompts,
    reference,
)

CPU = torch.device("cpu")
BLOCK = 4
MODELS = ("llama", "mistral", "gemma3", "gpt2", "qwen3_moe")
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def backend(paged: bool) -> Callable[..., VarlenBackend]:
    attention = partial(reference_varlen, multiple=BLOCK)
    return partial(VarlenBackend, paged=paged, attention=attention)


def device_runner(
    model: PreTrainedModel,
    hook: AttentionHook,
    num_blocks: int,
    paged: bool = True,
) -> DeviceRunner:
    return DeviceRunner(
        model,
        hook,
        max_model_len=128,
        num_blocks=num_blocks,
        block_size=BLOCK,
        make_backend=backend(paged),
    )


@dataclass
class OnDevice(Loaded):
    record: Rerun | None = None

    def engine(  # type: ignore[override]  # of other options
        self, num_blocks: int = 200, paged: bool = True, recorded: bool = True, **options: Any
    ) -> Engine:
        runner = device_runner(self.model, self.hook, num_blocks, paged)
        if recorded and paged:
            self.record = record = Rerun()
            runner.capture_decodes(choose_buckets(12, 60, 4), record)
        limits = {"max_num_seqs": 16, "max_num_batched_tokens": 64, **options}
        return assemble_engine(runner, **limits)


@pytest.fixture(scope="module", params=MODELS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OnDevice:
    folder = tmp_path_factory.mktemp(request.param)
    save_tiny(folder, request.param)
    model = load_model(folder, "float32", CPU)
    prompts = make_prompts()
    texts, gaps = reference(model, prompts)
    hook = AttentionHook()
    with torch.inference_mode():
        hook.probe(model)
    check_model(model, lambda blocks: device_runner(model, hook, blocks), 128, BLOCK)
    return OnDevice(model, hook, None, prompts, texts, gaps)


def test_arrivals_over_time_in_chunks_with_prefix_hits(loaded: OnDevice) -> None:
    engine = loaded.engine(max_num_batched_tokens=18)
    answers = run(engine, arrivals(loaded, 2))
    check_all(loaded, answers)
    assert answers["11"].outputs[0].admission is not None
    assert answers["11"].outputs[0].admission.cached_tokens == 36
    assert loaded.record is not None
    assert loaded.record.num_replayed > 5
    assert engine.stats().blocks_used == 0


def test_all_at_once_with_keys_gathered(loaded: OnDevice) -> None:
    check_all(loaded, run(loaded.engine(paged=False), arrivals(loaded, 0)))


def test_preemption(loaded: OnDevice) -> None:
    engine = loaded.engine(num_blocks=22, max_num_batched_tokens=24)
    check_all(loaded, run(engine, arrivals(loaded, 1)))
    assert engine.stats().preemptions > 0
    assert engine.stats().blocks_used == 0


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> OnDevice:
    folder = tmp_path_factory.mktemp("llama")
    save_tiny(folder, "llama")
    model = load_model(folder, "float32", CPU)
    hook = AttentionHook()
    with torch.inference_mode():
        hook.probe(model)
    return OnDevice(model, hook, None, make_prompts(), [], [])


KINDS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0, "logprobs": 2},
    {"temperature": 0.8, "top_p": 0.7, "top_k": 40, "stop_token_ids": tuple(range(0, 200, 7))},
    {"temperature": 0.7, "repetition_penalty": 1.3, "prompt_logprobs": 1},
    {"min_tokens": 9, "stop_token_ids": tuple(range(0, 200, 3)), "presence_penalty": 0.5},
]


def test_all_kinds_of_requests_get_what_one_step_at_a_time_gives(llama: OnDevice) -> None:
    asked = [
        (n, request(str(n), prompt, seed=n, max_tokens=NEW, **KINDS[n % len(KINDS)]))
        for n, prompt in enumerate(llama.prompts)
    ]
    ours = run(llama.engine(), asked)
    plain = ModelRunner(
        llama.model, llama.hook, max_model_len=128, num_blocks=200, block_size=BLOCK
    )
    theirs = run(assemble_engine(plain, max_num_seqs=16, max_num_batched_tokens=64), asked)
    for name, expected in theirs.items():
        answer = ours[name]
        assert answer.tokens == expected.tokens
        assert answer.finish_reason == expected.finish_reason
        admissions = [one.outputs[0].admission for one in (answer, expected)]
        first, second = (one and one.prompt_logprobs for one in admissions)
        assert (first is None) == (second is None)
        for known, right in zip(first or (), second or (), strict=True):
            assert known.token_id == right.token_id
            assert known.logprob == pytest.approx(right.logprob, abs=NEAR)
        for output, other in zip(answer.outputs, expected.outputs, strict=True):
            assert (output.logprobs is None) == (other.logprobs is None)
            if output.logprobs is not None and other.logprobs is not None:
                assert output.logprobs[0].top_token_ids == other.logprobs[0].top_token_ids


def test_only_steps_of_decodes_that_fit_are_replayed(llama: OnDevice) -> None:
    engine = llama.engine()
    run(engine, [(0, request("a", [1, 2, 3], max_tokens=4))])
    assert llama.record is not None
    assert llama.record.num_replayed == 3  # not the prompt
    run(engine, [(0, request("b", range(58), max_tokens=5))])
    assert llama.record.num_replayed == 5  # two of four: texts of up to 60 tokens are recorded


def test_a_model_that_cannot_be_recorded_is_run_without(llama: OnDevice) -> None:
    engine = llama.engine(recorded=False)
    lines: list[str] = []

    def refuse(function: Callable[[], torch.Tensor]) -> CapturedGraph:
        function()
        raise RuntimeError("it waits\nfor the device")

    assert isinstance(engine.runner, DeviceRunner)
    try_capture_decodes(engine.runner, [Bucket(2, 8)], refuse, lines.append)
    assert lines == ["running decodes without CUDA graphs: it waits"]
    answers = run(engine, [(0, request("a", [1, 2, 3]))])
    assert len(answers["a"].tokens) == 8


def test_drafts_and_backends_that_wait_take_steps_one_by_one(llama: OnDevice) -> None:
    sizes: dict[str, Any] = {"max_model_len": 128, "num_blocks": 4}
    plain = choose_backend(llama.hook, torch.float32, CPU, 16)
    assert not make_torch_runner(llama.model, llama.hook, plain, **sizes).overlaps
    choice = BackendChoice("", backend(True), BLOCK, overlaps=True, graphs=True)
    assert make_torch_runner(llama.model, llama.hook, choice, **sizes).overlaps
    assert not make_torch_runner(llama.model, llama.hook, choice, **sizes, speculates=True).overlaps


@pytest.mark.parametrize("graphs", [True, False])
def test_decodes_are_recorded_where_the_attention_allows_it(
    llama: OnDevice, graphs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.workers.torch_runner.make_runner.CudaGraphCapture", Rerun)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    card = type("Card", (), {"multi_processor_count": 4})()
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    choice = BackendChoice("", backend(True), BLOCK, overlaps=True, graphs=graphs)
    runner = make_torch_runner(llama.model, llama.hook, choice, max_model_len=64, num_blocks=40)
    lines: list[str] = []
    capture_graphs(runner, llama.hook, choice, lines.append, max_num_seqs=4)
    assert lines == (["running decodes with 3 CUDA graphs"] if graphs else [])


@NEEDS_CUDA
@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
def test_texts_on_a_gpu_are_likely_ones(name: str, eager: bool, tmp_path: Path) -> None:
    save_tiny(tmp_path, name)
    device = torch.device("cuda")
    model = load_model(tmp_path, "bfloat16", device)
    hook = AttentionHook()
    with torch.inference_mode():
        hook.probe(model)
    choice = choose_backend(hook, model.dtype, device, 16)

    def make(num_blocks: int) -> ModelRunner:
        return make_torch_runner(model, hook, choice, max_model_len=128, num_blocks=num_blocks)

    check_model(model, make, 128, choice.block_size)
    runner = make(40)
    if choice.graphs and not eager:
        assert isinstance(runner, DeviceRunner)
        runner.capture_decodes(choose_buckets(16, 128, 4), CudaGraphCapture())
    engine = assemble_engine(runner, max_num_seqs=16, max_num_batched_tokens=64)
    prompts = make_prompts()
    asked = [(n, request(str(n), prompt, max_tokens=NEW)) for n, prompt in enumerate(prompts)]
    answers = run(engine, asked)
    exact = load_model(tmp_path, "float32", CPU)
    for number, prompt in enumerate(prompts):
        text = prompt + answers[str(number)].tokens
        with torch.inference_mode():
            logits = exact(torch.tensor([text])).logits[0, len(prompt) - 1 : -1]
        chosen = logits.gather(1, torch.tensor(text[len(prompt) :])[:, None])
        assert float((logits.amax(dim=1, keepdim=True) - chosen).max()) < 0.4 * float(logits.std())
