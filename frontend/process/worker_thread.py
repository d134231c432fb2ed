"""Work in Python that takes long, beside the event loop.

A thread takes turns with the event loop every few milliseconds, wherever the work is Python's own;
one call into C (the reading of a JSON document) holds it up until it returns. So what is done here
helps only where no single call is long, which `headrace.frontend.http.sizes` sees to.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

# Smaller bodies, and chats of fewer parts, take a few milliseconds at most: less than their wait
# for the thread may be.
LARGE_BYTES = 32 * 1024
MANY_PARTS = 100

# One thread: of several that are at work the event loop would have to wait for each in turn.
_THREAD = ThreadPoolExecutor(1, thread_name_prefix="beside")


async def beside(work: Callable[[], T], is_long: bool) -> T:
    """What the work returns; long work is done in the thread."""
    if not is_long:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_THREAD, work)
