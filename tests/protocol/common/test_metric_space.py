"""Metrics on a full disk are lost, with one warning; their process goes on."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from headrace.protocol.common.metrics import metric_files, metric_space
from headrace.protocol.common.metrics.metric_space import MetricFile
from tests.small_file_systems import fill, small_tmpfs

# Counts until it is told that the disk is full (or starts then), counts many more, and again later.
COUNTS = """
import logging, os, sys, time
from pathlib import Path
from headrace.protocol.common.metrics import metric_space
logging.basicConfig(stream=sys.stdout, format="%(message)s")
metric_space.keep_metrics_on_full_disks()
metric_space.RETRY_S = 0.01
from prometheus_client import Counter, Gauge
def wait(line):
    print(line, flush=True)
    sys.stdin.readline()
if sys.argv[1] == "late":
    wait("started")
counter = Counter("tokens", "Tokens.", ("name",))
counter.labels("first").inc(2)
Gauge("open", "Open.", multiprocess_mode="livesum").set(1)
if sys.argv[1] == "early":
    wait("started")
for number in range(1000):
    counter.labels(f"name-{number}").inc()
wait("counted")
time.sleep(0.02)
counter.labels("first").inc(3)
print("done")
"""


def tokens_of(folder: Path) -> dict[str, float]:
    return {
        sample.labels["name"]: sample.value
        for metric in metric_files.read(folder)
        for sample in metric.samples
        if sample.name == "tokens_total"
    }


@pytest.mark.parametrize("kind", ["early", "late"])
def test_a_process_counts_on_a_full_disk_and_later_all_is_there(tmp_path: Path, kind: str) -> None:
    with small_tmpfs(tmp_path / "metrics", 1 << 20) as folder:
        command = [sys.executable, "-c", COUNTS, kind]
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
        with subprocess.Popen(
            command, stdin=PIPE, stdout=PIPE, text=True, env=environment
        ) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == "started\n"
            filler = fill(folder)
            print(file=process.stdin, flush=True)
            warning, line = process.stdout.readline(), process.stdout.readline()
            assert warning.startswith("metrics are incomplete until there is space: [Errno 28]")
            assert line == "counted\n", "one warning"
            assert len(tokens_of(folder)) < 1000
            filler.unlink()
            output, _ = process.communicate("\n", timeout=60)
        assert (process.returncode, output) == (0, "done\n")
        totals = tokens_of(folder)
        assert totals.pop("first") == 5
        assert totals == {f"name-{number}": 1 for number in range(1000)}


def test_the_sums_of_the_dead_wait_for_space(tmp_path: Path) -> None:
    with small_tmpfs(tmp_path / "metrics", 1 << 20) as folder:
        file = MetricFile(str(folder / "counter_11.db"))
        for number in range(300):
            file.write_value(f'["tokens", "tokens_total", {{"name": "{number}"}}, ""]', 1.0, 0.0)
        file.close()
        (folder / "sums.lock").touch()
        filler = fill(folder)
        with pytest.raises(OSError, match="No space"):
            metric_files.forget(folder, 11)
        assert len(tokens_of(folder)) == 300
        filler.unlink()
        metric_files.forget(folder, 11)
        assert len(tokens_of(folder)) == 300
        assert not (folder / "counter_11.db").exists()


def test_without_a_folder_a_process_counts_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metric_space, "_warned", False)
    with caplog.at_level(logging.WARNING):
        files = [MetricFile(str(tmp_path / "none" / name)) for name in ("a.db", "b.db")]
    assert len(caplog.messages) == 1
    for number in range(1000):
        files[0].write_value(f"key-{number}", number, 0.0)
    assert files[0].read_value("key-999") == (999.0, 0.0)  # type: ignore[no-untyped-call]
    for file in files:
        file.close()
