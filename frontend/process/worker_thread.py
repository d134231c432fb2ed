"""Run long work off the event loop, in a thread.

The thread and the event loop alternate every few milliseconds while they run Python code; a single
call into C (parsing a JSON document) blocks the loop until it returns. So this helps only if no
single call is long, which `headrace.frontend.http.sizes` ensures.
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

# Smaller bodies, and chats with fewer parts, take a few milliseconds at most, which may be less
# than waiting for the thread.
LARGE_BYTES = 32 * 1024
MANY_PARTS = 100

# One thread: several busy ones would all compete with the event loop for the GIL.
_THREAD = ThreadPoolExecutor(1, thread_name_prefix="worker")


async def run_in_worker_thread(work: Callable[[], T], is_long: bool) -> T:
    """Return what `work` returns; run it in the thread if it is long.

    It has the caller's context variables in either case.
    """
    if not is_long:
        return work()
    run = contextvars.copy_context().run
    return await asyncio.get_running_loop().run_in_executor(_THREAD, run, work)
