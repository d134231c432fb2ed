"""A short run; CHAOS_SECONDS makes it longer, CHAOS_SEED chooses another."""

import os
from pathlib import Path

import pytest

from .harness import run
from .models import save_chaos_model

SECONDS = float(os.environ.get("CHAOS_SECONDS", "8"))
# By default one that strikes everybody and ends calmly.
SEED = int(os.environ.get("CHAOS_SEED", "8"))


@pytest.mark.timeout(SECONDS + 400)
def test_nothing_is_lost_whatever_dies(tmp_path: Path) -> None:
    model = save_chaos_model(tmp_path / "tiny")
    report = run(SEED, SECONDS, model, "tiny", tmp_path / "cache")
    assert not report.findings, f"{report}\n{report.log}"
