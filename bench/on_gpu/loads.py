"""Run the loads of the GPU benchmark on the engine and on transformers' continuous batching."""

import time
from collections.abc import Iterator

import torch
from transformers import GenerationConfig, LlamaForCausalLM

from bench.on_gpu.model import synchronize
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_worker import Generate
from headrace.workers.engine.engine import Engine


def prompt_ids(number: int, length: int, vocab: int) -> list[int]:
    """Return the tokens of a prompt; no two prompts share a prefix."""
    return [(number * 7919 + index * 104_729 + 1) % vocab for index in range(length)]


def requests(batch: int, length: int, new_tokens: int, vocab: int) -> Iterator[Generate]:
    """Yield the requests of a batch."""
    for number in range(batch):
        sampling = SamplingParams(0, new_tokens, temperature=0.0)
        yield Generate(f"r{number}", tuple(prompt_ids(number, length, vocab)), sampling)


def run_prompts(engine: Engine, batch: int, length: int, vocab: int, device: torch.device) -> float:
    """Return the seconds until each prompt has its first token."""
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
    """Return the seconds of a decode step of the whole batch, and the mean context length."""
    names = [f"r{number}" for number in range(batch)]
    for request in requests(batch, length, engine.max_len, vocab):
        engine.add(request)
    while len(engine.step()) < batch:  # until all decode together
        if not engine.has_work:
            raise RuntimeError("requests ended before all could decode together")
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
    """Return the seconds of the whole load: prompts, and new tokens for each."""
    started = time.perf_counter()
    for request in requests(batch, length, new_tokens, vocab):
        engine.add(request)
    while engine.has_work:
        engine.step()
    return time.perf_counter() - started


def run_transformers(
    model: LlamaForCausalLM, batch: int, length: int, new_tokens: int, device: torch.device
) -> float | None:
    """Return the seconds of transformers' continuous batching for this load; None if it fails."""
    try:
        return _run_transformers(model, batch, length, new_tokens, device)
    except Exception as error:  # its failure is a result, too
        print(f"generate_batch: {type(error).__name__}: {error}", flush=True)
        return None


def _run_transformers(
    model: LlamaForCausalLM, batch: int, length: int, new_tokens: int, device: torch.device
) -> float | None:
    """Time the second of two equal loads: its batching manager is warm then."""
    model.set_attn_implementation("sdpa")
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    seconds = None
    try:
        for first in (0, batch):  # other prompts: none is found in its cache
            numbers = range(first, first + batch)
            prompts = [prompt_ids(number, length, model.config.vocab_size) for number in numbers]
            synchronize(device)
            started = time.perf_counter()
            outputs = model.generate_batch(
                prompts, generation_config=settings, persistent_manager=True, progress_bar=False
            )
            seconds = time.perf_counter() - started
            if [len(output.generated_tokens) for output in outputs.values()] != [
                new_tokens
            ] * batch:
                return None
    finally:
        model.destroy_cached_continuous_batching_manager()
    return seconds
