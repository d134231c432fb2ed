"""Tasks without which a frontend is of no use."""

import asyncio
import logging
import os
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


def create_vital_task(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """A task that is to run until it is cancelled. Should it end by an error, so does the process,
    and the launcher starts another: half a frontend would look alive and serve nobody."""
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(_check)
    return task


def _check(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("a vital task has failed: the process ends", exc_info=task.exception())
        os._exit(1)
