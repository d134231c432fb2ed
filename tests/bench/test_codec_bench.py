"""bench/codec.py compares builds in one process; here, this one with itself."""

import subprocess
import sys

import pytest

from bench.load.layouts import ROOT


@pytest.mark.parametrize("options", [[], ["--than", str(ROOT)]])
def test_each_message_is_measured(options: list[str]) -> None:
    command = [sys.executable, "-m", "bench.codec", "--rounds", "1", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 9
    assert all("the same bytes" in line and "decode" in line for line in lines)
