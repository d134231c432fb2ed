"""The sampling benchmark compares the kernel with torch's operations."""

import sys
from typing import Any

import pytest
import torch

from bench import sampling
from headrace.workers.native.draw import can_draw, draw
from headrace.workers.sampling import sampler

needs_kernels = pytest.mark.skipif(not can_draw(torch.device("cpu")), reason="no kernels here")


@needs_kernels
def test_each_side_runs_on_its_own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def counted(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += 1
        return draw(*args)

    monkeypatch.setattr(sampler, "draw", counted)
    logits, texts = torch.randn((3, 500)), sampling.make_sequences(3, {"top_p": 0.9})
    sampling.seconds_of(logits, texts, compiled=False)
    assert calls == 0
    sampling.seconds_of(logits, texts, compiled=True)
    assert calls == 1
    assert vars(sampler)["can_draw"] is can_draw


@needs_kernels
def test_it_prints_a_line_for_each_kind_of_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    options = "--rows 1 3 --vocabulary 400 --rounds 1 --threads 1".split()
    monkeypatch.setattr(sys, "argv", ["sampling", *options])
    sampling.main()
    torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * len(sampling.SPREADS) * len(sampling.SETTINGS)
    assert all("kernel" in line and line.endswith(" x") for line in lines)
