"""Calls of a compiled encoder that take long: they are work, not a stall, up to a bound."""

import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from headrace.workers import progress
from headrace.workers.pooling.compiled_encoder import CompiledEncoder
from tests.workers.pooling.driving import encode

SIZE = 4


class SlowProgram:
    """Takes some time for each token, or as long as it is told."""

    token_s = 0.001
    call_s = 0.0

    def start(self, *args: Any, **options: Any) -> "SlowProgram":
        return self

    def forward(self, token_ids: Sequence[int], *args: Any, **options: Any) -> torch.Tensor:
        time.sleep(self.call_s or len(token_ids) * self.token_s)
        return torch.zeros((len(token_ids), SIZE))


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> SlowProgram:
    monkeypatch.setattr(progress, "_REPORT_S", 0.02)
    return SlowProgram()


def reports(encoder: CompiledEncoder, tokens: int) -> int:
    found: list[float] = []
    (vectors,) = encoder.encode([encode("a", [5] * tokens)], lambda: found.append(time.monotonic()))
    assert vectors.shape == (tokens, SIZE)
    return len(found)


def test_a_long_call_is_reported_while_it_runs(program: Any) -> None:
    encoder = CompiledEncoder(program, lambda text: range(len(text)))
    assert reports(encoder, 64) == 1
    assert reports(encoder, 400) > 3


def test_a_call_that_hangs_is_not_reported_for_ever(
    program: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_PATIENCE", 2)
    encoder = CompiledEncoder(program, lambda text: range(len(text)))
    reports(encoder, 64)
    program.call_s = 1.0
    assert 1 < reports(encoder, 50) < 20  # of 50 if all of the second were reported
