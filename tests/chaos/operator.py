"""An operator who loads an adapter, uses it and unloads it, again and again."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from .answers import Outcome
from .asking import Address, Broken, ErrorStatus, ask, order
from .catalogue import visitor_request
from .load import PAUSE_S, Load
from .models import VISITOR

_LOAD, _UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
CALL_TIMEOUT_S = 90.0
# What a call may fail with while things die: it takes too long, another is still being done by who
# has died, workers have ended, or nobody is there. Then it may have been done, or not.
_MAY_FAIL = (408, 409, 500, 503)


async def operate(load: Load, folder: Path, right: Outcome) -> None:
    """Until the load is over. Once an adapter has been loaded it is found, and says what it has
    said before; once it has been unloaded it is not."""
    request = visitor_request()
    while not load.over and not load.found.is_set():
        body = {"lora_name": VISITOR, "lora_path": str(folder), "load_inplace": True}
        if await _is_done(load, _LOAD, body):
            load.counts["adapters loaded"] += 1
            await load.answered(request, False, right)
        if load.over or load.found.is_set():
            return
        if await _is_done(load, _UNLOAD, {"lora_name": VISITOR}):
            load.counts["adapters unloaded"] += 1
        await asyncio.sleep(PAUSE_S)


async def _is_done(load: Load, path: str, body: dict[str, Any]) -> bool:
    """Whether a call has been; what it must not fail of is a finding."""
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            await order(load.address, path, body)
            return True
    except ErrorStatus as error:
        # What has been unloaded by a call whose answer was lost cannot be found.
        is_gone = path == _UNLOAD and error.status == 404
        if error.status not in _MAY_FAIL and not is_gone:
            load.find(path, str(error))
        load.counts[f"operator's {error.status}"] += 1
    except Broken:
        load.counts["operator's connection broken"] += 1
    except TimeoutError:
        load.find(path, f"no answer within {CALL_TIMEOUT_S:g} s")
    return False


async def first_answer(address: Address, folder: Path) -> Outcome:
    """What the adapter says while nothing dies."""
    body = {"lora_name": VISITOR, "lora_path": str(folder)}
    await order(address, _LOAD, body)
    try:
        return await ask(address, visitor_request(), False)
    finally:
        with contextlib.suppress(ErrorStatus):
            await order(address, _UNLOAD, {"lora_name": VISITOR})
