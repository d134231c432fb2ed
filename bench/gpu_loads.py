"""The loads of the GPU benchmark, on our engine and on transformers' continuous batching."""

import time
from collections.abc import Iterator

import torch
from transformers import GenerationConfig, LlamaForCausalLM

from bench.gpu_model import synchronize
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_worker import Generate
from headrace.workers.engine.engine import Engine


def prompt_ids(number: int, length: int, vocab: int) -> list[int]:
    """Tokens of which no two prompts share a beginning."""
    return [(number * 7919 + place * 104_729 + 1) % vocab for place in range(length)]


def requests(batch: int, length: int, new_tokens: int, vocab: int) -> Iterator[Generate]:
    for number in range(batch):
        sampling = SamplingParams(0, new_tokens, temperature=0.0)
        yield Generate(f"r{number}", tuple(prompt_ids(number, length, vocab)), sampling)


def run_prompts(engine: Engine, batch: int, length: int, vocab: int, device: torch.device) -> float:
    """Seconds until each prompt has its first token."""
    for request in requests(batch, length, 1, vocab):
        engine.add(request)
    synchronize(device)
    started = time.perf_counter()
    while engine.has_work:
        engine.step()
    return time.perf_counter() - started


def run_decodes(
    engine: Engine, batch: int, length: int, new_tokens: int, vocab: int, device: torch.device
) -> tuple[float, float]:
    """Seconds of one decode step of the whole batch, and how long its texts are meanwhile."""
    names = [f"r{number}" for number in range(batch)]
    for request in requests(batch, length, engine.max_len, vocab):
        engine.add(request)
    while len(engine.step()) < batch:  # until all decode together
        if not engine.has_work:
            raise RuntimeError("texts ended before all could decode together")
    generated = engine.stats().generated_tokens
    synchronize(device)
    started = time.perf_counter()
    for _ in range(new_tokens):
        engine.step()
    seconds = time.perf_counter() - started
    context = length + (engine.stats().generated_tokens - generated) / batch / 2
    for name in names:
        engine.abort(name)
    while engine.has_work:
        engine.step()
    return seconds / new_tokens, context


def run_load(engine: Engine, batch: int, length: int, new_tokens: int, vocab: int) -> float:
    """Seconds of the whole load: prompts, and new tokens for each."""
    started = time.perf_counter()
    for request in requests(batch, length, new_tokens, vocab):
        engine.add(request)
    while engine.has_work:
        engine.step()
    return time.perf_counter() - started


def run_transformers(
    model: LlamaForCausalLM, batch: int, length: int, new_tokens: int, device: torch.device
) -> float | None:
    """Seconds that transformers' continuous batching takes for the same load; None if it fails."""
    try:
        return _run_transformers(model, batch, length, new_tokens, device)
    except Exception as error:  # its failure is a result; ours are printed all the same
        print(f"generate_batch: {type(error).__name__}: {error}", flush=True)
        return None


def _run_transformers(
    model: LlamaForCausalLM, batch: int, length: int, new_tokens: int, device: torch.device
) -> float | None:
    """The second of two loads alike: the manager stays, and is warm then."""
    model.set_attn_implementation("sdpa")
    settings = GenerationConfig(
        max_new_tokens=new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    seconds = None
    try:
        for first in (0, batch):  # other prompts, lest they are found in its cache
            numbers = range(first, first + batch)
            prompts = [prompt_ids(number, length, model.config.vocab_size) for number in numbers]
            synchronize(device)
            started = time.perf_counter()
            found = model.generate_batch(
                prompts, generation_config=settings, persistent_manager=True, progress_bar=False
            )
            seconds = time.perf_counter() - started
            if [len(one.generated_tokens) for one in found.values()] != [new_tokens] * batch:
                return None
    finally:
        model.destroy_cached_continuous_batching_manager()
    return seconds
