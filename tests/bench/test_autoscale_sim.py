"""The simulation of autoscaling on a day of some minutes."""

from pathlib import Path

import numpy as np
import pytest

from bench import autoscale_sim
from bench.scaling import trace
from bench.scaling.engines import QUANTUM, Engine
from bench.scaling.pool import play
from bench.scaling.results import count_changes, oracle, waits
from bench.scaling.settings import DEFAULT, SETTINGS, Setting


def test_a_short_day_with_all_settings(capsys: pytest.CaptureFixture[str]) -> None:
    autoscale_sim.main(["--seconds", "1500", "--peak", "300", "--small-peak", "20"])
    printed = capsys.readouterr().out
    for setting in SETTINGS:
        assert f"| {setting.name} |" in printed


def test_a_recorded_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "trace.txt"
    file.write_text("20\n" * 700)
    autoscale_sim.main(["--trace", str(file)])
    assert "14,000 requests in 700 s" in capsys.readouterr().out


def test_a_trace_is_that_of_its_seed() -> None:
    one, other = trace.generate(50, 900, seed=3), trace.generate(50, 900, seed=3)
    assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))
    assert not np.array_equal(one[1], trace.generate(50, 900, seed=4)[1])


def test_a_fixed_pool_that_is_large_enough_lets_nobody_wait_and_loses_nobody() -> None:
    came = np.full(600, 3000.0)
    engine = Engine()
    size = int(oracle(came, engine, 0.6).max())
    day = play(came, engine, None, size)
    assert day.begun.sum() == pytest.approx(came.sum())
    assert waits(day).quantile(1.0) == 0
    # As many are in flight as their rate and their time here say, and as the oracle has reckoned.
    assert day.running[-1] / size == pytest.approx(0.6 * engine.slots, rel=0.03)
    assert set(day.paid) == {size}


def test_a_pool_that_is_too_small_makes_a_line() -> None:
    came = np.full(100, 30.0)
    day = play(came, Engine(), None, 2)
    assert day.running.max() <= 2 * Engine().slots
    assert day.waiting[-1] > 1000
    assert waits(day).quantile(0.5) > 10
    assert day.waiting[-1] == pytest.approx(came.sum() - day.begun.sum())


def test_workers_come_after_their_start_and_go_with_what_they_have() -> None:
    came = np.concatenate([np.full(60, 6.0), np.full(300, 60.0), np.zeros(900)])
    run = autoscale_sim.simulate(Setting("quick", down_s=60.0), came, came, seed=0)
    assert run.day.size[200] > 5 * run.day.size[0]
    assert (run.day.ready <= run.day.paid).all()
    assert run.day.size[-1] == run.day.paid[-1] == 1
    assert run.day.running[-1] == pytest.approx(0, abs=1e-6)


def test_answers_have_their_mean_length() -> None:
    lengths = Engine().lengths()
    mean = (np.arange(1, len(lengths) + 1) * QUANTUM * lengths).sum()
    assert mean == pytest.approx(Engine().mean_tokens, rel=0.1)


def test_changes_and_turns() -> None:
    assert count_changes(np.array([1.0, 1, 2, 4, 4, 3, 3, 5])) == (4, 2)


def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    expected, came = trace.generate(30, 1500, seed=1)
    run = autoscale_sim.simulate(DEFAULT, expected, came, seed=1)
    autoscale_sim.draw(tmp_path, [run], expected)
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "choices.png",
        "day.png",
        "flash.png",
    ]
