"""What a worker reports about itself."""

import os
import platform
import sys
from dataclasses import astuple

from headrace.protocol.call_results import EngineStatistics, MemoryUse, Pong, WorkerInfo
from headrace.protocol.calls import GetInfo, GetMemory, GetStats, Ping
from headrace.protocol.config import GroupConfig
from headrace.workers.process.call_handlers import CallHandlers
from headrace.workers.process.engine_memory import EngineMemory


def add_handlers(handlers: CallHandlers, group: GroupConfig) -> None:
    """Answer the calls that ask for reports."""
    handlers.add(GetInfo, lambda call, reply: reply(_info(group)))
    handlers.add_operation(GetMemory, _memory_use)
    handlers.add_operation(GetStats, _statistics)
    handlers.add_operation(Ping, lambda call, memory: Pong())


def _statistics(call: GetStats, memory: EngineMemory) -> EngineStatistics:
    return EngineStatistics(*astuple(memory.engine.stats()))


def _memory_use(call: GetMemory, memory: EngineMemory) -> MemoryUse:
    return MemoryUse(_resident_bytes(), *memory.engine.memory_use())


def _info(group: GroupConfig) -> WorkerInfo:
    torch = sys.modules.get("torch")
    return WorkerInfo(
        pid=os.getpid(),
        python=platform.python_version(),
        torch=None if torch is None else str(torch.__version__),
        threads=None if torch is None else torch.get_num_threads(),
        engine=group.engine.engine,
        cuda_visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
