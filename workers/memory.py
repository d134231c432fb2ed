"""Giving memory back to the system."""

import ctypes
import gc
import sys
from contextlib import suppress


def free_memory() -> None:
    """Give back to the system what nothing refers to any more."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc keeps what was freed in small pieces
        ctypes.CDLL(None).malloc_trim(0)
    torch = sys.modules.get("torch")  # not to be imported for this
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
