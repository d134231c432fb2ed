"""The GPU benchmark, tried on the CPU with a tiny model; and what it counts, against formulas."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.on_gpu.model import SHAPES, decode_bytes, kv_bytes, make_model, prefill_flops

ROOT = Path(__file__).parents[2]
# Not on a machine that has only what torch and transformers bring along.
ABSENT = ("pydantic", "zmq", "quart", "hypercorn", "uvloop", "prometheus_client", "gguf", "jinja2")


def run_bench(*arguments: str) -> str:
    block = "; ".join(f"sys.modules[{name!r}] = None" for name in ABSENT)
    code = f"import sys, runpy; {block}; runpy.run_module('bench.gpu', run_name='__main__')"
    options = ("--device", "cpu", "--shape", "tiny", "--new-tokens", "6", *arguments)
    done = subprocess.run(
        [sys.executable, "-c", code, *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_runs_on_a_bare_machine_and_fills_its_table() -> None:
    lines = run_bench("--batch", "1,5", "--prompt", "20,300", "--skip-transformers").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    names, *rows = rows
    assert [row[:2] for row in rows] == [["1", "20"], ["5", "20"], ["1", "300"], ["5", "300"]]
    for row in rows:
        known = dict(zip(names, map(float, row), strict=True))
        assert known["prefill tok/s"] > 0
        assert known["decode tok/s"] == pytest.approx(
            known["tiny: batch"] / known["step ms"] * 1000, rel=0.01
        )
        assert known["load s"] > 0


def test_bytes_and_operations_are_counted_by_the_shape() -> None:
    model = make_model("tiny", 64, torch.device("cpu"))
    hidden, intermediate, layers, heads, kv_heads, vocab, _ = SHAPES["tiny"]
    dim = hidden // heads
    layer = 2 * hidden * hidden + 2 * hidden * kv_heads * dim + 3 * hidden * intermediate
    weights = layers * layer + vocab * hidden
    assert kv_bytes(model) == 2 * layers * kv_heads * dim * 2
    assert decode_bytes(model, 3, 10) == 2 * weights + 3 * 10 * kv_bytes(model)
    causal = sum(range(1, 8)) * 4 * hidden * layers
    expected = 2 * (2 * layers * layer * 7 + 2 * vocab * hidden + causal)
    assert prefill_flops(model, 2, 7) == pytest.approx(expected)


def test_a_shared_embedding_is_read_once() -> None:
    tied = make_model("tiny", 64, torch.device("cpu"))
    tied.lm_head.weight = tied.model.embed_tokens.weight
    assert decode_bytes(tied, 1, 0) == decode_bytes(
        make_model("tiny", 64, torch.device("cpu")), 1, 0
    )
