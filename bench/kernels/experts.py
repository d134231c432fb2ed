"""Compare a mixture of experts as a compiled program with torch's operations.

    GOMP_SPINCOUNT=10000 python -m bench.kernels.experts

Weights are random, in bfloat16: a qwen3_moe of 0.9 billion parameters, of which 0.2 are used for a
token, unless options say otherwise. Tokens are random, too, so that nearly all experts are in use
in a step of many rows. Both run in one process, in turn; figures are medians of the rounds' ratios.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from bench.roof.rounds import Turn, alternate, repeated
from headrace.protocol.config import EngineConfig
from headrace.workers.attention.backend import AttentionBatch, Span
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.linear.linears import prepare_linears
from headrace.workers.native.program import CompiledProgram
from headrace.workers.native.runner import NativeRunner
from headrace.workers.torch_runner.model_runner import ModelRunner

_VOCAB, _HEAD_DIM = 32_000, 64
_BLOCK = 16
_CONTEXT = 160  # of a decode
_PROMPT = 512
_BATCHES = (1, 16)

Runner = NativeRunner | ModelRunner


def make_model(options: argparse.Namespace) -> PreTrainedModel:
    """Return a random model with these sizes."""
    sizes: dict[str, Any] = {
        "vocab_size": _VOCAB,
        "hidden_size": options.hidden,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.hidden // _HEAD_DIM,
        "num_key_value_heads": max(1, options.hidden // _HEAD_DIM // 4),
        "head_dim": _HEAD_DIM,
        "num_experts": options.experts,
        "num_experts_per_tok": options.chosen,
        "moe_intermediate_size": options.inner,
    }
    config = Qwen3MoeConfig(**sizes, norm_topk_prob=True, tie_word_embeddings=True)
    model: PreTrainedModel = Qwen3MoeForCausalLM(config).bfloat16()
    model.train(False)
    return model


def make_runners(options: argparse.Namespace) -> tuple[NativeRunner, ModelRunner]:
    """Return runners of one model, compiled and on torch's operations."""
    model = make_model(options)
    hook = AttentionHook()
    with torch.inference_mode():
        hook.probe(model)
    compiled = CompiledProgram(model, hook, options.threads)
    prepare_linears(model, EngineConfig(), print)
    blocks = max(_BATCHES) * (_CONTEXT // _BLOCK + 1) + _PROMPT // _BLOCK
    sizes: dict[str, Any] = {"max_model_len": 2048, "num_blocks": blocks, "block_size": _BLOCK}
    native = NativeRunner(compiled, vocab_size=_VOCAB, **sizes)
    return native, ModelRunner(model, hook, **sizes)


def decode(runner: Runner, batch: int) -> Turn:
    """Return turns of steps of so many streams, whose context has been computed before."""
    each = _CONTEXT // _BLOCK + 1
    spans = [Span(n, 1, _CONTEXT, range(n * each, (n + 1) * each)) for n in range(batch)]
    for span in spans:
        whole = Span(0, _CONTEXT, 0, span.blocks)
        forward(runner, range(_CONTEXT), [_CONTEXT - 1], AttentionBatch([], [whole]))
    rows = AttentionBatch(spans, [])
    return repeated(lambda: forward(runner, [_CONTEXT] * batch, range(batch), rows))


def prefill(runner: Runner) -> Turn:
    """Return turns of a prompt."""
    batch = AttentionBatch([], [Span(0, _PROMPT, 0, range(_PROMPT // _BLOCK))])
    return repeated(lambda: forward(runner, range(_PROMPT), [_PROMPT - 1], batch))


@torch.inference_mode()
def forward(
    runner: Runner, positions: Sequence[int], logit_rows: Sequence[int], batch: AttentionBatch
) -> float:
    """Run random tokens at these positions; return the seconds that it took."""
    tokens = torch.randint(_VOCAB, (len(positions),)).tolist()
    start = time.perf_counter()
    runner.forward(tokens, positions, logit_rows, batch)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    defaults = {"hidden": 1024, "layers": 12, "experts": 64, "chosen": 8, "inner": 384}
    for name, default in {**defaults, "threads": 2, "rounds": 5, "repeats": 8}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--loads", nargs="+", default=["decode", "prefill"])
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    native, plain = make_runners(options)
    print(f"weights of the program: {native.weight_bytes / 2**20:.0f} MiB")
    loads: dict[str, Callable[[Runner], Turn]] = {
        f"decode, batch {batch}": partial(decode, batch=batch) for batch in _BATCHES
    }
    loads[f"prefill of {_PROMPT} tokens"] = prefill
    for name, load in loads.items():
        if name.split()[0].strip(",") not in options.loads:
            continue
        turns = load(plain), load(native)
        timed = alternate(*turns, options.rounds, options.repeats)
        print(timed.outcome(name, 0.0, "torch", "program").line().replace(" (bar 0: MISSED)", ""))


if __name__ == "__main__":
    main()
