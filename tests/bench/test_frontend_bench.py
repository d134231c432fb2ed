"""bench.frontend against a pool of its own, with few streams."""

import sys
from pathlib import Path

import pytest

from bench import frontend
from bench.load import long_chat


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


def test_a_long_chat(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake_model: Path
) -> None:
    monkeypatch.setattr(long_chat, "CHATS", 2)
    arguments = ["--long-chat", "3000", "--messages", "4", "--model", str(fake_model)]
    monkeypatch.setattr(sys, "argv", ["bench.frontend", *arguments, "--rounds", "2"])

    frontend.main()

    head, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert head == ["build", "first,", "ms", "next,", "ms"]
    assert [row[0] for row in rows] == ["this", "this"]
    assert all(float(cell) >= 0 for row in rows for cell in row[1:])
