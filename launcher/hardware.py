"""What this machine has, asked without torch."""

import os
from pathlib import Path

# How often an OpenMP thread looks for work before it sleeps. By default that is milliseconds, in
# which it takes a core from the frontends and from the very thread that it waits for; with none at
# all, each of a step's hundreds of small operations pays for a wake-up. See docs/decisions/.
SPIN_COUNT = "10000"


def cpu_count() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def gpu_ids() -> list[str]:
    """The GPUs that this process may use, in the form of CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    devices = Path("/dev").glob("nvidia[0-9]*")
    return sorted((device.name.removeprefix("nvidia") for device in devices), key=int)


def worker_environment(place: int, workers: int, threads: int | None) -> dict[str, str]:
    """What a worker's process is told of the hardware that it may use.

    place: number of the worker on this host, workers: how many there are.
    threads: CPU threads if the operator has said how many; else the CPUs are shared out.
    """
    count = str(threads or max(1, cpu_count() // workers))
    environment = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    # numpy computes nothing in a worker, and its library would start threads when it is imported.
    environment["OPENBLAS_NUM_THREADS"] = "1"
    if "OMP_WAIT_POLICY" not in os.environ:
        environment["GOMP_SPINCOUNT"] = os.environ.get("GOMP_SPINCOUNT", SPIN_COUNT)
    gpus = gpu_ids()
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
    return environment
