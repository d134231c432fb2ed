"""The readers of strangers' bytes: on the inputs that are kept, and on a few new ones."""

import subprocess
import sys

import pytest

from bench.fuzz import corpora
from bench.fuzz.models import check_body, fuzz_model, request_models
from bench.fuzz.targets import TARGETS, TargetError, require
from bench.load.layouts import ROOT
from headrace.frontend.schemas.chat import ChatCompletionRequest

RUNS = 1000


@pytest.mark.parametrize("target", TARGETS)
def test_kept_inputs_break_no_rule(target: str) -> None:
    inputs = corpora.load(target)
    assert inputs
    for data in inputs:
        TARGETS[target](data)


def test_broken_rules_are_noticed() -> None:
    require(True, "a rule")
    with pytest.raises(TargetError, match="a rule"):
        require(False, "a rule")


@pytest.mark.parametrize("target", TARGETS)
def test_new_inputs_break_no_rule(target: str) -> None:
    command = [sys.executable, "-m", "bench.fuzz.coverage", target, "--runs", str(RUNS)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-3000:]


@pytest.mark.parametrize("model", request_models(), ids=lambda model: model.__name__)
def test_bodies_become_models_or_errors(model: type) -> None:
    fuzz_model(model, number=0, examples=20)


def test_models_tell_good_bodies_from_bad_ones() -> None:
    good = b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}'
    assert check_body(ChatCompletionRequest, good) == 200
    assert check_body(ChatCompletionRequest, b'{"model": "m"}') == 400
