"""The hardware of this machine, found without torch."""

import importlib.metadata
import logging
import os
from pathlib import Path

from headrace.protocol.common.host.limits import available_cpus, available_memory

log = logging.getLogger("headrace.launcher")

# How often an OpenMP thread polls for work before it sleeps. By default that takes milliseconds, in
# which it keeps a core from the frontends and from the very thread that it waits for; with none at
# all, each of a step's hundreds of small operations pays for a wake-up. See docs/decisions/.
SPIN_COUNT = "10000"
DEVICES = Path("/dev")
# Of NVIDIA's driver, and of the one in Windows' subsystem for Linux.
DEVICE_FILES = ("nvidia[0-9]*", "dxg")


def cpu_count() -> int:
    """Return the number of CPUs that this process may use, control groups' quotas considered."""
    return available_cpus().amount


def log_limits() -> None:
    """Log how many CPUs and how much memory the pool may use, and what limits them."""
    cpus, memory = available_cpus(), available_memory()
    log.info("%d CPUs, by %s", cpus.amount, cpus.source)
    log.info("%d MiB of memory, by %s", memory.amount >> 20, memory.source)


def gpu_ids() -> list[str]:
    """Return the GPUs that this process may use, in the form of CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    devices = DEVICES.glob("nvidia[0-9]*")
    return sorted((device.name.removeprefix("nvidia") for device in devices), key=int)


def why_no_gpu() -> str | None:
    """Return why no worker can use a GPU, as far as that is seen without torch; None if one can.

    A device that nothing here knows about counts as usable: workers ask the driver.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not gpu_ids():
        return "CUDA_VISIBLE_DEVICES names none"
    devices = [device for pattern in DEVICE_FILES for device in DEVICES.glob(pattern)]
    if not devices:
        return "this machine has none"
    if importlib.metadata.version("torch").endswith("+cpu"):
        return "this build of torch is for CPUs alone"
    return None


def worker_environment(index: int, workers: int, threads: int | None) -> dict[str, str]:
    """Return the environment variables that limit a worker to its share of the hardware.

    index: of the worker on this host; workers: their number.
    threads: CPU threads of the worker; None: an equal share of the CPUs.
    """
    count = str(threads or max(1, cpu_count() // workers))
    environment = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    # numpy computes nothing in a worker, and its library would start threads when it is imported.
    environment["OPENBLAS_NUM_THREADS"] = "1"
    if "OMP_WAIT_POLICY" not in os.environ:
        environment["GOMP_SPINCOUNT"] = os.environ.get("GOMP_SPINCOUNT", SPIN_COUNT)
    gpus = gpu_ids()
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
    return environment
