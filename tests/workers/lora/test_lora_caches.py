"""Adapters with keys and values of 8 bits: each text is the one that it is alone, to the last bit.

On torch's operations, and on the kernels for each instruction set that the processor has.
"""

from dataclasses import replace
from typing import Any

import pytest

from headrace.protocol.config import CpuKernels
from headrace.workers.attention.cache_dtype import CacheDtype
from headrace.workers.engine.engine import Engine
from tests.workers.driving import run
from tests.workers.lora.lora_engines import KINDS, Tiny, adapted, make_prompts, make_tiny
from tests.workers.processors import KERNELS, use_kernels

NAMES = ("", *KINDS)
CACHES: list[CacheDtype] = ["int8", "fp8"]
PROMPT = make_prompts(1, 40)[0]
ANY_KERNELS: list[CpuKernels] = [*KERNELS, "torch"]


@pytest.fixture(scope="module")
def torch_llama(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("llama"), "llama", KINDS, "torch")


class Cached:
    """A tiny model whose cache is of a dtype, and each adapter's text of a prompt, alone."""

    def __init__(self, tiny: Tiny, cache: CacheDtype) -> None:
        self.tiny, self.cache = tiny, cache
        self.alone = {name: self.text(self.engine(), name) for name in NAMES}

    def engine(self, **options: Any) -> Engine:
        return self.tiny.engine(kv_cache_dtype=self.cache, **options)

    def text(self, engine: Engine, name: str) -> list[int]:
        return run(engine, [(0, adapted("r", PROMPT, name))])["r"].tokens


@pytest.fixture(
    scope="module",
    params=[(kernels, cache) for kernels in ANY_KERNELS for cache in CACHES],
    ids=str,
)
def cached(request: pytest.FixtureRequest, torch_llama: Tiny) -> Cached:
    kernels, cache = request.param
    use_kernels(kernels)
    return Cached(replace(torch_llama, kernels=kernels), cache)


def test_prefixes_are_not_shared_among_adapters(cached: Cached) -> None:
    engine = cached.engine()
    assert engine.cache_size.dtype == cached.cache
    assert len({tuple(text) for text in cached.alone.values()}) == len(NAMES)
    for found in (0, 32):
        for name in NAMES:
            answer = run(engine, [(0, adapted("r", PROMPT, name))])["r"]
            admission = answer.outputs[0].admission
            assert admission is not None
            assert admission.cached_tokens == found, name
            assert answer.tokens == cached.alone[name], name


def test_in_a_crowd_in_chunks_and_after_preemption(cached: Cached) -> None:
    engine = cached.engine(max_model_len=64)
    size = engine.runner.cache_bytes
    assert size is not None
    twelve_blocks = size * 12 // engine.cache_size.num_blocks
    asked = [
        (0, adapted(f"r{number}", prompt, NAMES[number % len(NAMES)], max_tokens=30))
        for number, prompt in enumerate(make_prompts(12, longest=30))
    ]
    tight = {"max_model_len": 64, "kv_cache_bytes": twelve_blocks, "max_num_batched_tokens": 30}
    crowded = cached.engine(**tight)
    answers = run(crowded, asked)
    assert crowded.stats().preemptions > 0
    for _, one in asked:
        alone = run(engine, [(0, one)])[one.request_id]
        assert answers[one.request_id].tokens == alone.tokens, one
