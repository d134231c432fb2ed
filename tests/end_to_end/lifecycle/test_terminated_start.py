"""SIGTERM at any moment of a start: everything ends in bounded time, and nothing is left."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.lifecycle.test_killed_start import Start, warm_cache
from tests.end_to_end.servers import wait_for

__all__ = ["warm_cache"]

# A start takes two to three seconds.
MOMENTS_S = [0.05, 0.15, 0.3, 0.45, 0.6, 0.8, 1.0, 1.2, 1.5, 1.8, 2.1, 2.5, 3.0, 4.0]
ENDS_WITHIN_S = 15.0


def terminate(start: Start, after_s: float) -> int:
    process = start.begin()
    time.sleep(after_s)
    process.send_signal(signal.SIGTERM)
    return process.wait(ENDS_WITHIN_S)


def check_gone(start: Start) -> None:
    wait_for(lambda: not start.family(), "no process is left", timeout_s=5)
    assert not (start.folder / "run").exists()
    assert not start.socket.exists()
    assert not list(start.folder.glob("*.lock"))
    assert "Traceback" not in start.log


def test_a_start_ends_at_any_moment(
    fake_model: Path,
    warm_cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Before the command has read its flags, the signal itself ends it."""
    starts = [Start(tmp_path_factory.mktemp("k"), fake_model, warm_cache) for _ in MOMENTS_S]
    try:
        with ThreadPoolExecutor(3) as threads:
            codes = list(threads.map(terminate, starts, MOMENTS_S))
        for start, code in zip(starts, codes, strict=True):
            assert code in (0, 143, -signal.SIGTERM), start.log
            check_gone(start)
    finally:
        for start in starts:
            start.stop()
            for process in start.family():
                process.kill()


@pytest.mark.parametrize("module", ["protocol.api_keys", "launcher.models.prepare_model"])
def test_an_interrupt_while_modules_are_loaded_is_quiet(
    module: str, fake_model: Path, warm_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends the command as it ends others, without a traceback of its imports."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # each module that is loaded is a line
    start = Start(tmp_path, fake_model, warm_cache)
    try:
        process = start.begin()
        wait_for(lambda: f"headrace.{module}\n" in start.log, "it is loading")
        process.send_signal(signal.SIGINT)
        # 0: the pool had begun to start meanwhile, and was stopped in good order.
        assert process.wait(ENDS_WITHIN_S) in (0, 130, -signal.SIGINT), start.log
        check_gone(start)
    finally:
        start.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ending_workers_that_load_their_modules_is_no_failure(
    number: signal.Signals, fake_model: Path, warm_cache: Path, tmp_path: Path
) -> None:
    """They do not handle the launcher's SIGTERM yet, and die of it."""
    start = Start(tmp_path, fake_model, warm_cache)
    try:
        process = start.begin("--no-warm-starts")
        wait_for(lambda: any(map(is_worker, start.family())), "a worker runs", 30)
        process.send_signal(number)
        assert process.wait(ENDS_WITHIN_S) == 0, start.log
        check_gone(start)
        assert " ERROR " not in start.log
    finally:
        start.stop()


def is_worker(process: psutil.Process) -> bool:
    try:
        return "headrace.workers.main" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("after_s", [0.8, 2.0, 4.0])
def test_preparing_a_model_ends_too(
    after_s: float, fake_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It runs in a process of its own."""
    folder = tmp_path_factory.mktemp("k")
    start = Start(folder, fake_model, folder / "cache")
    try:
        process = start.begin()
        if after_s > 1:
            wait_for(lambda: "preparing the tokenizer" in start.log, "it prepares", 60)
        time.sleep(after_s)
        process.send_signal(signal.SIGTERM)
        assert process.wait(ENDS_WITHIN_S) in (0, 143, -signal.SIGTERM), start.log
        check_gone(start)
    finally:
        start.stop()
        for left in start.family():
            left.kill()
