"""Token by token against transformers' own greedy generation, in float32, for each architecture.

On torch's operations, and on the kernels for each instruction set that the processor has.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel

from headrace.protocol.config import CpuKernels, EngineConfig
from headrace.protocol.to_worker import Generate
from headrace.workers.attention.hook import AttentionHook, vocab_rows
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.linear.linears import prepare_linears
from headrace.workers.native.program import CompiledProgram
from headrace.workers.native.runner import NativeRunner
from headrace.workers.torch_runner.loading import load_model, model_length
from headrace.workers.torch_runner.model_runner import ModelRunner
from headrace.workers.torch_runner.self_check import check_model
from tests.workers.driving import Answer, request, run
from tests.workers.processors import KERNELS, use_kernels
from tests.workers.tiny_models import MODELS, VOCAB, save_tiny

LENGTHS = (1, 2, 3, 4, 5, 9, 16, 23, 40)
NEW = 14
NEAR = 1e-4  # logits closer than this are equal but for float32's rounding
# What runs one model comes one after the other: they share its texts.
PATHS = [(name, kernels) for name in MODELS for kernels in ("torch", *KERNELS)]


@dataclass
class Known:
    """A model's folder, and what transformers generates. gaps: as `reference` finds them."""

    folder: Path
    prompts: list[list[int]]
    texts: list[list[int]]
    gaps: list[list[float]]


@dataclass
class Loaded:
    model: PreTrainedModel
    hook: AttentionHook
    compiled: CompiledProgram | None
    prompts: list[list[int]]
    texts: list[list[int]]
    gaps: list[list[float]]
    kernels: CpuKernels = "torch"

    @property
    def block_size(self) -> int:
        return 4 if self.compiled is None else 16

    def runner(self, num_blocks: int, block_size: int) -> ModelRunner | NativeRunner:
        sizes: dict[str, Any] = {
            "max_model_len": 128,
            "num_blocks": num_blocks,
            "block_size": block_size,
        }
        if self.compiled is None:
            return ModelRunner(self.model, self.hook, **sizes)
        return NativeRunner(self.compiled, vocab_size=vocab_rows(self.model), **sizes)

    def engine(self, tokens: int = 800, block_size: int | None = None, **options: Any) -> Engine:
        size = block_size or self.block_size
        runner = self.runner(tokens // size, size)
        limits = {"max_num_seqs": 16, "max_num_batched_tokens": 64, **options}
        return assemble_engine(runner, **limits)

    def check(self, number: int, tokens: list[int], start: int = 0) -> None:
        """Tokens must be the reference's from `start` on, up to its first near tie."""
        for index, (ours, theirs) in enumerate(
            zip(tokens, self.texts[number][start:], strict=True), start
        ):
            if self.gaps[number][index] < NEAR:
                return
            assert ours == theirs, f"prompt {number}, token {index}"


def make_prompts() -> list[list[int]]:
    """Of all lengths; the last three share a beginning of some blocks with the longest."""
    rng = random.Random(5)
    prompts = [[rng.randrange(VOCAB) for _ in range(length)] for length in LENGTHS]
    longest = prompts[-1]
    prompts += [longest[:20], [*longest[:13], 7, 8, 9], list(longest)]
    return prompts


@torch.inference_mode()
def reference(model: Any, prompts: list[list[int]]) -> tuple[list[list[int]], list[list[float]]]:
    """transformers' texts, and how far apart the two best logits were at each token."""
    texts, gaps = [], []
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=NEW,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    for prompt in prompts:
        result = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
            generation_config=settings,
        )
        texts.append(result.sequences[0, len(prompt) :].tolist())
        best = [logits[0].topk(2).values for logits in result.logits]
        gaps.append([float(two[0] - two[1]) for two in best])
    return texts, gaps


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Known]:
    """What is known of a model by its name: found out once."""

    @cache
    def find(name: str) -> Known:
        folder: Path = tmp_path_factory.mktemp(name)
        save_tiny(folder, name)
        model = load_model(folder, "float32", torch.device("cpu"))
        assert model.config._attn_implementation == "eager"
        prompts = make_prompts()
        texts, gaps = reference(model, prompts)
        assert len({tuple(text) for text in texts}) > 6, "the texts must differ to tell anything"
        assert sum(gap > NEAR for some in gaps for gap in some) > 0.95 * NEW * len(prompts)
        return Known(folder, prompts, texts, gaps)

    return find


@pytest.fixture(scope="module", params=PATHS, ids="-".join)
def loaded(request: pytest.FixtureRequest, known: Callable[[str], Known]) -> Loaded:
    name, kernels = request.param
    use_kernels(kernels)
    of = known(name)
    model = load_model(of.folder, "float32", torch.device("cpu"))
    hook = AttentionHook()
    with torch.inference_mode():
        hook.probe(model)
    compiled = None if kernels == "torch" else CompiledProgram(model, hook, threads=2)
    if compiled is None:
        prepare_linears(model, EngineConfig(), print)
    loaded = Loaded(model, hook, compiled, of.prompts, of.texts, of.gaps, kernels)
    size = loaded.block_size
    check_model(model, lambda blocks: loaded.runner(blocks, size), model_length(model), size)
    return loaded


@pytest.fixture(autouse=True)
def _its_kernels(loaded: Loaded, kernel_set: CpuKernels) -> None:
    """They draw the tokens, too."""
    use_kernels(loaded.kernels)


def arrivals(loaded: Loaded, spread: int) -> list[tuple[int, Generate]]:
    return [
        (number * spread, request(str(number), prompt, max_tokens=NEW))
        for number, prompt in enumerate(loaded.prompts)
    ]


def check_all(loaded: Loaded, answers: dict[str, Answer]) -> None:
    for number in range(len(loaded.prompts)):
        answer = answers[str(number)]
        loaded.check(number, answer.tokens)
        assert answer.finish_reason == "length"


def test_batch_arriving_at_once(loaded: Loaded) -> None:
    engine = loaded.engine(max_num_batched_tokens=256, block_size=16, enable_prefix_caching=False)
    check_all(loaded, run(engine, arrivals(loaded, 0)))
    assert engine.stats().cached_tokens == 0


def test_arrivals_over_time_in_chunks_with_prefix_hits(loaded: Loaded) -> None:
    engine = loaded.engine(max_num_batched_tokens=18)
    answers = run(engine, arrivals(loaded, 2))
    check_all(loaded, answers)
    assert answers["9"].outputs[0].admission is not None
    assert answers["9"].outputs[0].admission.cached_tokens >= 8
    whole_blocks = (LENGTHS[-1] - 1) // loaded.block_size * loaded.block_size
    assert answers["11"].outputs[0].admission is not None
    assert answers["11"].outputs[0].admission.cached_tokens == whole_blocks


def test_preemption(loaded: Loaded) -> None:
    engine = loaded.engine(tokens=88, max_num_batched_tokens=24)
    check_all(loaded, run(engine, arrivals(loaded, 1)))
    assert engine.stats().preemptions > 0
    assert engine.stats().blocks_used == 0


def test_replay_from_the_middle(loaded: Loaded) -> None:
    engine = loaded.engine(max_num_batched_tokens=20)
    done = {number: (3 * number) % NEW for number in range(len(loaded.prompts))}
    answers = run(
        engine,
        [
            (0, request(str(n), prompt, replayed=loaded.texts[n][: done[n]], max_tokens=NEW))
            for n, prompt in enumerate(loaded.prompts)
        ],
    )
    for number, start in done.items():
        loaded.check(number, answers[str(number)].tokens, start)
        assert answers[str(number)].outputs[0].position == start


def test_prompt_logprobs(loaded: Loaded) -> None:
    prompt = loaded.prompts[LENGTHS.index(23)]
    engine = loaded.engine(max_num_batched_tokens=7)
    answers = run(engine, [(0, request("r", prompt, prompt_logprobs=2, logprobs=1))])
    loaded.model.set_attn_implementation("eager")
    with torch.inference_mode():
        expected = loaded.model(torch.tensor([prompt])).logits[0].float().log_softmax(-1)
    loaded.model.set_attn_implementation(loaded.hook.name)
    assert answers["r"].outputs[0].admission is not None
    described = answers["r"].outputs[0].admission.prompt_logprobs
    assert described is not None
    assert [one.token_id for one in described] == prompt[1:]
    for row, one in zip(expected, described, strict=False):
        assert one.logprob == pytest.approx(float(row[one.token_id]), abs=1e-3)
        above, near = row > row[one.token_id] + NEAR, row > row[one.token_id] - NEAR
        assert int(above.sum()) + 1 <= one.rank <= int(near.sum())
        assert list(one.top_logprobs) == pytest.approx(row.topk(2).values.tolist(), abs=1e-3)
    first = answers["r"].outputs[0]
    best = float(expected[-1].max())
    assert first.logprobs is not None
    assert first.logprobs[0].logprob == pytest.approx(best, abs=1e-3)
