"""Tasks without which a frontend must end."""

import asyncio
import logging
import os
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger("headrace.frontend")


def spawn_critical(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Start a task that runs until it is cancelled. If it fails, the process ends and the launcher
    starts another: half a frontend would look alive and serve no request."""
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(_check)
    return task


def _check(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("a critical task has failed; the process ends", exc_info=task.exception())
        os._exit(1)
