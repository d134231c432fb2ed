"""Return unused memory to the system."""

import ctypes
import gc
import sys
from contextlib import suppress


def free_memory() -> None:
    """Return memory that nothing refers to any more to the system, on the CPU and the GPU."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc keeps small freed chunks
        ctypes.CDLL(None).malloc_trim(0)
    torch = sys.modules.get("torch")  # must not be imported just for this
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
