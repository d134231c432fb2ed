"""bench.frontend against a pool of its own, with few streams."""

import sys

import pytest

from bench import frontend


def test_a_short_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--streams", "2", "--requests", "4", "--output-tokens", "8"]
    monkeypatch.setattr(
        sys, "argv", ["bench.frontend", *arguments, "--step-s", "0", "--rounds", "1"]
    )

    frontend.main()

    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["build", "step,"]
    name, step_ms, events_per_s, tokens_per_s, *others = row.split()
    assert (name, step_ms) == ("this", "0")
    assert 0 < float(events_per_s) <= float(tokens_per_s)
    assert len(others) == 5
    assert all(float(cell) >= 0 for cell in others)
    assert "failed" not in row
