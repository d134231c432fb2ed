"""What is shown of a pool, out of answers of its routes; and of a server that is not there."""

import io
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from headrace.console.client import Client, Unreachable
from headrace.console.frame import frame
from headrace.console.snapshot import (
    BATCHES,
    Snapshot,
    active_batches,
    counters,
    read,
    take,
)
from headrace.console.top import PoolView

METRICS = """
# TYPE headrace:iteration_tokens_total histogram
headrace:iteration_tokens_total_bucket{model_name="m",engine="0",le="+Inf"} 2
headrace:iteration_tokens_total_sum{model_name="m",engine="0"} %d
headrace:iteration_tokens_total_count{model_name="m",engine="0"} 2
# TYPE headrace:prefix_cache_queries counter
headrace:prefix_cache_queries_total{model_name="m",engine="0"} 200
# TYPE headrace:prefix_cache_hits counter
headrace:prefix_cache_hits_total{model_name="m",engine="0"} 50
# TYPE headrace:generation_tokens counter
headrace:generation_tokens_total{model_name="m",engine="0"} %d
headrace:generation_tokens_total{model_name="other",engine="0"} 7
# TYPE headrace:prompt_tokens counter
headrace:prompt_tokens_total{model_name="m",engine="0"} %d
headrace:prompt_tokens_total{model_name="m",engine="1"} 5
"""


def worker(name: str, state: str = "ready", is_paused: bool = False) -> dict[str, Any]:
    load = {"running": 3, "waiting": 4, "steps": 9, "last_step_age_s": 0.0, "restarts": 1}
    return {"name": name, "state": state, "is_paused": is_paused, **load}


HEALTH = {
    "status": "degraded",
    "groups": [
        {
            "name": "g",
            "models": ["m"],
            "status": "degraded",
            "wanted": 2,
            "is_crash_loop": True,
            "workers": [worker("g-0.1"), worker("g-1.0", is_paused=True)],
        }
    ],
}
LOAD: dict[str, Any] = {
    "server_load": 7,
    "groups": [{"name": "g", "workers": [{"name": "g-0.1", "kv_cache_usage": 0.25}]}],
    "frontends": [{"name": "frontend-0.0", "in_flight": 7}],
}


def snapshot(at: float, tokens: int) -> Snapshot:
    return read(HEALTH, LOAD, counters(METRICS % (10 * tokens, tokens, 3 * tokens)), at)


def shown(now: Snapshot, before: Snapshot | None, url: str, width: int = 140) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(frame(now, before, url))
    return file.getvalue()


def test_a_frame_has_all_that_is_known() -> None:
    text = shown(snapshot(12.0, 300), snapshot(10.0, 100), "http://here")
    for part in ("degraded", "g-0.1", "paused", "25.0%", "frontend-0.0", "again and again"):
        assert part in text
    assert "100 generated tokens/s" in text
    assert "1,000" in text


@pytest.mark.parametrize(
    ("tasks", "rate"),
    [
        (["generate"], "100 generated tokens/s"),
        (["transcription"], "100 generated tokens/s"),
        (["embed", "token_embed"], "300 read tokens/s"),
    ],
)
def test_tasks_of_a_group(tasks: list[str], rate: str) -> None:
    load = {**LOAD, "groups": [{**LOAD["groups"][0], "tasks": tasks}]}
    taken = [
        read(HEALTH, load, counters(METRICS % (0, tokens, 3 * tokens)), at)
        for at, tokens in ((10.0, 100), (12.0, 300))
    ]
    text = shown(taken[1], taken[0], "http://here")
    assert ", ".join(tasks) in text
    assert rate in text


def test_a_narrow_terminal_shows_names_whole() -> None:
    text = shown(snapshot(12.0, 300), None, "http://here", width=80)
    assert "g-0.1" in text
    assert "frontend-0.0" in text
    assert "…" not in text


@pytest.mark.parametrize("before", [None, snapshot(12.0, 300), snapshot(10.0, 400)])
def test_rates_that_are_not_known_are_not_shown(before: Snapshot | None) -> None:
    assert "- generated tokens/s" in shown(snapshot(12.0, 300), before, "http://here")


def test_what_was_seen_last_stays_when_the_server_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Snapshot | Unreachable] = [
        snapshot(1.0, 100),
        Unreachable("it does not answer"),
        snapshot(5.0, 500),
    ]

    def take(client: Client, now: float) -> Snapshot:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("headrace.console.top.take", take)
    file = io.StringIO()
    view, console = PoolView(Client("http://here")), Console(file=file, width=140)
    for now in (1.0, 3.0):
        console.print(view.next(now))
    text = file.getvalue()
    assert "it does not answer; this is 2 s old" in text
    assert text.count("g-0.1") == 2
    console.print(view.next(5.0))
    assert view.problem == ""


def test_nobody_there_is_one_line() -> None:
    view = PoolView(Client("http://127.0.0.1:1"))
    assert "does not answer" in str(view.next(0.0))
    assert view.problem


def test_one_frame_is_shown_without_a_terminal() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "headrace", "top", "--url", "http://127.0.0.1:9"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stdout


def batches(done: int) -> list[dict[str, Any]]:
    """An answer of /v1/batches."""
    counts = {"total": 4000, "completed": done, "failed": 7}
    ended = {"id": "batch_0123456789ab", "status": "completed", "request_counts": counts}
    return [{"id": "batch_ba5eba11f00d", "status": "in_progress", "request_counts": counts}, ended]


def with_batches(at: float, done: int) -> Snapshot:
    return replace(snapshot(at, 100), batches=active_batches(batches(done)))


def test_batches_show_what_is_done() -> None:
    text = shown(with_batches(12.0, 1593), with_batches(10.0, 1393), "http://here", width=80)
    for part in ("batch_ba5eba11", "in_progress", "1,600", "4,000", "40%", "7", "100"):
        assert part in text
    assert "completed" not in text
    assert "batches" not in shown(snapshot(12.0, 100), None, "http://here")


@pytest.mark.parametrize(("count", "asks"), [(0, False), (2, True)])
def test_a_server_is_asked_for_batches_if_it_has_any(
    monkeypatch: pytest.MonkeyPatch, count: int, asks: bool
) -> None:
    asked: list[str] = []

    def answer(self: Client, path: str) -> dict[str, Any]:
        asked.append(path)
        found: dict[str, dict[str, Any]] = {"/health?verbose": HEALTH, "/load?verbose": LOAD}
        return found.get(path, {"data": batches(100)})

    metrics = METRICS % (100, 10, 30) + (
        "# TYPE headrace:batches gauge\n"
        'headrace:batches{status="failed"} 0\n'
        f'headrace:batches{{status="in_progress"}} {count}\n'
    )
    monkeypatch.setattr(Client, "json", answer)
    monkeypatch.setattr(Client, "text", lambda self, path: metrics)
    found = take(Client("http://here"), 1.0)
    assert [each.done for each in found.batches] == ([107] if asks else [])
    assert (BATCHES in asked) == asks
