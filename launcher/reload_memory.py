"""Reckon whether a worker's successor has room beside it.

On a CPU a successor needs what the worker has needed at most since its start: its cache, its
weights, which are read anew since their files may have changed, and what loading them took besides.
On a GPU it takes its configured share of the memory.
"""

import asyncio
import re
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

from headrace.launcher.hardware import gpu_ids
from headrace.protocol.common.host.limits import Limit, available_memory
from headrace.protocol.config import GroupConfig

_MARGIN = 1.1  # weights that have become larger, and other processes
_GPU_QUERY_S = 10.0
_MIB = 2**20


async def why_no_room(pid: int, group: GroupConfig, gpu: str) -> str:
    """Return why there is no room for another worker like the process; "" if there is.

    gpu: the worker's GPU, in the form of CUDA_VISIBLE_DEVICES; "": none.
    """
    if gpu and group.engine.runs_model and group.engine.device != "cpu":
        reason = lacks_gpu_memory(await _query_gpu(gpu), group.engine.memory_utilization)
        if reason:
            return reason
    return lacks_memory(peak_bytes(pid), available_memory())


def lacks_memory(peak: int | None, available: Limit) -> str:
    """Return why another process that takes `peak` bytes has no room; "" if it has."""
    if peak is None:
        return "its memory cannot be read"
    needed = int(peak * _MARGIN)
    if needed <= available.amount:
        return ""
    return f"another one may need {needed // _MIB} MiB, and {available.amount // _MIB} are free"


def lacks_gpu_memory(memory: tuple[int, int] | None, share: float) -> str:
    """Return why a share of a GPU cannot be had. memory: free and total MiB, None if unknown."""
    if memory is None:
        return "the free memory of its GPU cannot be read"
    free, total = memory
    needed = int(total * share)
    if needed <= free:
        return ""
    return f"another one takes {needed} MiB of its GPU, of which {free} MiB are free"


def peak_bytes(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Return the most memory that a process has had so far; None if it cannot be read."""
    return _read_status(pid, "VmHWM", proc)


def own_bytes(pid: int, proc: Path = Path("/proc")) -> int:
    """Return the memory that the end of a process gives back; 0 if it cannot be read."""
    return _read_status(pid, "RssAnon", proc) or 0


def _read_status(pid: int, name: str, proc: Path) -> int | None:
    try:
        text = (proc / f"{pid}/status").read_text()
    except OSError:
        return None
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return None if found is None else int(found[1]) * 1024


def gpu_of(index: int) -> str:
    """Return the GPU of the worker with an index on this host; "" if there is none."""
    gpus = gpu_ids()
    return gpus[index % len(gpus)] if gpus else ""


async def _query_gpu(gpu: str) -> tuple[int, int] | None:
    """Return a GPU's free and total memory in MiB; None if the driver's tool does not tell."""
    command = ["nvidia-smi", f"--id={gpu}", "--query-gpu=memory.free,memory.total"]
    try:
        process = await asyncio.create_subprocess_exec(
            *command, "--format=csv,noheader,nounits", stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(_GPU_QUERY_S):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return None
    found = re.fullmatch(r"(\d+), (\d+)", output.decode(errors="replace").strip())
    return None if found is None else (int(found[1]), int(found[2]))
