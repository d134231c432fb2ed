"""bench.tls against pools of its own, with few requests."""

import sys
from pathlib import Path

import pytest

from bench import tls


def test_a_short_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake_model: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "")
    # Enough for a clock of 10 ms.
    arguments = ["--keys", "--streams", "8", "--requests", "100", "--output-tokens", "500"]
    arguments += ["--step-s", "0", "--rounds", "1", "--model", str(fake_model)]
    monkeypatch.setattr(sys, "argv", ["bench.tls", *arguments])

    tls.main()

    rows = capsys.readouterr().out.splitlines()
    assert [row.split(" ratio ")[0].split()[-3] for row in rows] == ["request", "event"] * 4
    assert "ratio 1.000 (1.000 to 1.000)" in rows[0]
    assert all(float(row.split(" µs")[0].split()[-1]) > 0 for row in rows)
