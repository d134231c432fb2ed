"""A short run of each engine; CHAOS_SECONDS makes them longer, CHAOS_SEED chooses another."""

import os
from pathlib import Path

import pytest

from .harness import run
from .models import save_chaos_model

SECONDS = float(os.environ.get("CHAOS_SECONDS", "8"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))


@pytest.mark.timeout(SECONDS + 400)
@pytest.mark.parametrize("engine", ["tiny", "fake"])
def test_nothing_is_lost_whatever_dies(tmp_path: Path, engine: str) -> None:
    model = save_chaos_model(tmp_path / "tiny")
    report = run(SEED, SECONDS, model, engine, tmp_path / "cache")
    assert not report.findings, f"{report}\n{report.log}"
