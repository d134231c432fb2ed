"""A short run with the fake engine, whose processes start fastest. CHAOS_SECONDS makes it longer,
CHAOS_SEED chooses another."""

import os
from pathlib import Path

import pytest

from .harness import run

SECONDS = float(os.environ.get("CHAOS_SECONDS", "8"))
# By default one that strikes everybody and ends calmly.
SEED = int(os.environ.get("CHAOS_SEED", "8"))


@pytest.mark.timeout(SECONDS + 400)
def test_nothing_is_lost_whatever_dies(fake_model: Path, tmp_path: Path) -> None:
    report = run(SEED, SECONDS, fake_model, "fake", tmp_path / "cache")
    assert not report.findings, f"{report}\n{report.log}"
