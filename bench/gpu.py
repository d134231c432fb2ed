"""Measure decode and prefill on a GPU against its limits and transformers' continuous batching.

Weights are random, so that nothing has to be downloaded; only torch, transformers and msgspec are
needed. Each line gives the share of a ceiling measured in the same run: of the copy bandwidth for
decodes (weights, keys and values read once), of the rate of a large matrix product for prompts.
Usage: python -m bench.gpu [--shape 1B,8B] [--batch 1,16,64,256]
[--prompt 128,1024,4096] [--skip-transformers]. On a CPU, to try it: --device cpu --shape tiny.
"""

import argparse
import gc
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from transformers import LlamaForCausalLM

from bench.on_gpu.loads import run_decodes, run_load, run_prompts, run_transformers
from bench.on_gpu.model import (
    Ceilings,
    decode_bytes,
    kv_bytes,
    make_model,
    measure_ceilings,
    prefill_flops,
)
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.torch_runner.choose_backend import choose_backend
from headrace.workers.torch_runner.make_runner import capture_graphs, make_torch_runner

_BLOCK_SIZE = 16  # as in the server; the attention backend may need more
_STEP_TOKENS = 8192
_CACHE_SHARE = 0.8  # of the memory that is free after loading the model


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line. bandwidth: in bytes/s; None to measure it."""

    shapes: list[str]
    batches: list[int]
    prompts: list[int]
    new_tokens: int
    device: torch.device
    with_transformers: bool
    with_graphs: bool
    bandwidth: float | None


def make_engine(
    model: LlamaForCausalLM, hook: AttentionHook, options: Options, max_length: int
) -> Engine:
    """Return an engine on the model, with CUDA graphs unless the options forbid them."""
    with torch.inference_mode():
        hook.probe(model)
    choice = choose_backend(hook, model.dtype, options.device, _BLOCK_SIZE)
    tokens = cache_tokens(model, options, max_length, choice.block_size)
    num_blocks = tokens // choice.block_size
    runner = make_torch_runner(model, hook, choice, max_model_len=max_length, num_blocks=num_blocks)
    print(f"attention: {choice.name}, overlap {runner.overlaps}, {num_blocks} blocks", flush=True)
    if options.with_graphs:
        started = time.perf_counter()
        capture_graphs(runner, hook, choice, print, max_num_seqs=max(options.batches))
        print(f"recorded in {time.perf_counter() - started:.1f} s", flush=True)
    return assemble_engine(
        runner,
        max_num_seqs=max(options.batches),
        max_num_batched_tokens=_STEP_TOKENS,
        enable_prefix_caching=False,
    )


def cache_tokens(
    model: LlamaForCausalLM, options: Options, max_length: int, block_size: int
) -> int:
    """Return the cache size: for all sequences and two blocks more each, or as much as fits."""
    wanted = max(options.batches) * (max_length + 2 * block_size)
    if options.device.type == "cpu":
        return wanted
    free, _ = torch.cuda.mem_get_info(options.device)
    return min(wanted, int(free * _CACHE_SHARE) // kv_bytes(model))


def measure(
    engine: Engine, model: LlamaForCausalLM, options: Options, ceilings: Ceilings
) -> Iterator[list[str]]:
    """Yield a row of the table for each batch and prompt length that the cache holds."""
    vocab = model.config.vocab_size
    block_size = engine.runner.block_size
    for length in options.prompts:
        for batch in options.batches:
            longest = length + options.new_tokens + steps_of(batch, length)
            if batch * (-(-longest // block_size) + 1) > engine.stats().blocks_total:
                yield [str(batch), str(length), "does not fit"]
                continue
            run_load(engine, batch, length, options.new_tokens, vocab)  # warm-up
            prefill_s = run_prompts(engine, batch, length, vocab, options.device)
            step_s, context = run_decodes(
                engine, batch, length, options.new_tokens, vocab, options.device
            )
            bound_s = decode_bytes(model, batch, context) / ceilings.bytes_per_s
            flops = prefill_flops(model, batch, length)
            yield [
                str(batch),
                str(length),
                f"{batch * length / prefill_s:.0f}",
                f"{flops / prefill_s / ceilings.flops_per_s:.2f}",
                f"{step_s * 1000:.2f}",
                f"{batch / step_s:.0f}",
                f"{bound_s / step_s:.2f}",
                f"{run_load(engine, batch, length, options.new_tokens, vocab):.2f}",
            ]


def steps_of(batch: int, length: int) -> int:
    """Return an upper bound of the prefill steps, in which the first outputs grow already."""
    return 2 * batch * length // _STEP_TOKENS + 8


COLUMNS = (
    "batch", "prompt", "prefill tok/s", "of matrix rate", "step ms", "decode tok/s",
    "of bandwidth", "load s",
)  # fmt: skip


def measure_shape(shape: str, options: Options, ceilings: Ceilings) -> None:
    """Print the tables of one model shape."""
    longest = max(options.prompts)
    max_length = longest + options.new_tokens + steps_of(max(options.batches), longest) + 1
    model = make_model(shape, max_length, options.device)
    hook = AttentionHook()
    engine = make_engine(model, hook, options, max_length)
    rows = []
    for row in measure(engine, model, options, ceilings):
        rows.append(row)
        print(" ".join(row), flush=True)
    del engine
    hook.backend = None  # transformers' registry keeps the hook, and it would keep the cache
    release(options.device)
    print_table([f"{shape}: {name}" if name == "batch" else name for name in COLUMNS], rows)
    if options.with_transformers:
        compare(model, rows, options)


def compare(model: LlamaForCausalLM, rows: list[list[str]], options: Options) -> None:
    """Print the times of transformers' generate_batch for the same loads, over the engine's."""
    table = []
    for batch, length, *ours in rows:
        if len(ours) == 1:
            continue
        seconds = run_transformers(
            model, int(batch), int(length), options.new_tokens, options.device
        )
        release(options.device)
        theirs = "failed" if seconds is None else f"{seconds:.2f}"
        ratio = "" if seconds is None else f"{seconds / float(ours[-1]):.2f}"
        table.append([batch, length, ours[-1], theirs, ratio])
        print(" ".join(table[-1]), flush=True)
    print_table(["batch", "prompt", "load s", "generate_batch s", "ratio"], table)


def release(device: torch.device) -> None:
    """Free the memory of deleted objects."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def print_table(names: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table."""
    print("\n| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    for row in rows:
        print("| " + " | ".join([*row, *[""] * (len(names) - len(row))]) + " |")
    print(flush=True)


def read_options() -> Options:
    """Parse the command line."""

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", default="1B,8B")
    parser.add_argument("--batch", type=numbers, default=[1, 16, 64, 256])
    parser.add_argument("--prompt", type=numbers, default=[128, 1024, 4096])
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--enforce-eager", action="store_true")
    parser.add_argument("--skip-transformers", action="store_true")
    parser.add_argument("--bandwidth-gbs", type=float, help="instead of the one measured")
    args = parser.parse_args()
    given = args.bandwidth_gbs
    return Options(
        args.shape.split(","), args.batch, args.prompt, args.new_tokens,
        torch.device(args.device), not args.skip_transformers, not args.enforce_eager,
        None if given is None else given * 1e9,
    )  # fmt: skip


def main(show: Callable[[str], None] = print) -> None:
    """Measure the ceilings, then each shape."""
    for name in ("transformers", "ContinuousBatchingLogger"):
        logging.getLogger(name).setLevel(logging.ERROR)
    options = read_options()
    ceilings = measure_ceilings(options.device)
    if options.bandwidth is not None:
        ceilings = Ceilings(options.bandwidth, ceilings.flops_per_s)
    card = torch.cuda.get_device_name() if options.device.type == "cuda" else "cpu"
    show(
        f"{card}, torch {torch.__version__}: copies {ceilings.bytes_per_s / 1e9:.0f} GB/s, "
        f"bf16 products {ceilings.flops_per_s / 1e12:.1f} TFLOP/s"
    )
    for shape in options.shapes:
        measure_shape(shape, options, ceilings)


if __name__ == "__main__":
    main()
