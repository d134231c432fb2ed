"""What a worker can be asked, beside what it is told to do. Answers are JSON."""

import os
import platform
import sys
from dataclasses import asdict
from typing import Any

from headrace.protocol.config import GroupConfig
from headrace.workers.process.engine_memory import Residence


def ping(residence: Residence) -> str:
    """Comes back when the engine's thread has a moment, so it tells that this goes on."""
    return "pong"


def stats(residence: Residence) -> dict[str, Any]:
    """Gauges and counters of the engine."""
    return asdict(residence.engine.stats())


def memory(residence: Residence) -> dict[str, int | None]:
    """In bytes, with what others share. resident: of the process. weights, cache: None where a
    runner does not know."""
    runner = residence.engine.runner
    return {
        "resident_bytes": _resident_bytes(),
        "weight_bytes": runner.weight_bytes,
        "cache_bytes": runner.cache_bytes,
    }


def info(group: GroupConfig) -> dict[str, Any]:
    """What the worker runs on; known without its engine. torch: None if it is not loaded."""
    torch = sys.modules.get("torch")
    cards = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {
        "pid": os.getpid(),
        "python": platform.python_version(),
        "torch": None if torch is None else str(torch.__version__),
        "threads": None if torch is None else torch.get_num_threads(),
        "engine": group.engine.engine,
        "cuda_visible_devices": cards,
    }


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
