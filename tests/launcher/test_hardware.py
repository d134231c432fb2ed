"""What a worker's process is told of the machine."""

from pathlib import Path

import pytest

from headrace.launcher import hardware
from headrace.launcher.hardware import gpu_ids, why_no_gpu, worker_environment


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cpu_count", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("workers", "threads", "count"), [(1, None, "8"), (3, None, "2"), (20, None, "1"), (4, 5, "5")]
)
def test_cpus_are_shared_out(workers: int, threads: int | None, count: str) -> None:
    environment = worker_environment(0, workers, threads)
    assert environment["OMP_NUM_THREADS"] == count
    assert "CUDA_VISIBLE_DEVICES" not in environment


def test_each_worker_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert gpu_ids() == ["2", "5"]
    given = [worker_environment(place, 3, None)["CUDA_VISIBLE_DEVICES"] for place in range(3)]
    assert given == ["2", "5", "2"]


def test_operators_own_spinning_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker_environment(0, 1, None)["GOMP_SPINCOUNT"] == hardware.SPIN_COUNT
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert worker_environment(0, 1, None)["GOMP_SPINCOUNT"] == "7"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert "GOMP_SPINCOUNT" not in worker_environment(0, 1, None)


@pytest.mark.parametrize(
    ("visible", "files", "torch", "reason"),
    [
        (None, [], "2.9.0", "has none"),
        ("0", [], "2.9.0", "has none"),
        ("", ["nvidia0"], "2.9.0", "CUDA_VISIBLE_DEVICES"),
        ("-1", ["nvidia0"], "2.9.0", "CUDA_VISIBLE_DEVICES"),
        (None, ["nvidiactl", "nvidia-uvm"], "2.9.0", "has none"),
        (None, ["nvidia0"], "2.9.0+cpu", "for CPUs alone"),
        (None, ["nvidia0"], "2.9.0+cu126", None),
        ("0", ["dxg"], "2.9.0", None),
    ],
)
def test_why_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    visible: str | None,
    files: list[str],
    torch: str,
    reason: str | None,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setattr(hardware, "DEVICES", tmp_path)
    monkeypatch.setattr("importlib.metadata.version", lambda _: torch)
    found = why_no_gpu()
    assert found is None if reason is None else reason in str(found)
