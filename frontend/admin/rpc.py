"""The calls to workers that POST /collective_rpc may make, by their public names.

Only listed methods can be called: the admin API has more calls than clients may make by name.
"""

from typing import Any

import msgspec
from pydantic import BaseModel, ConfigDict, create_model

from headrace.frontend.errors import BadRequest, shortened
from headrace.frontend.http.parsing import validate
from headrace.protocol.calls import (
    CallToWorkers,
    GetInfo,
    GetMemory,
    GetStats,
    Ping,
    ResetPrefixCache,
)

METHODS: dict[str, type[CallToWorkers]] = {
    "info": GetInfo,
    "memory": GetMemory,
    "ping": Ping,
    "reset_prefix_cache": ResetPrefixCache,
    "stats": GetStats,
}


def _arguments_model(call: type[CallToWorkers]) -> type[BaseModel]:
    """Return the model that validates a call's arguments."""
    fields: dict[str, Any] = {
        field.name: (field.type, ... if field.required else field.default)
        for field in msgspec.structs.fields(call)
    }
    return create_model(call.__name__, __config__=ConfigDict(strict=True, extra="forbid"), **fields)


_ARGUMENTS = {name: _arguments_model(call) for name, call in METHODS.items()}


def worker_call(method: str, args: list[Any], kwargs: dict[str, Any]) -> CallToWorkers:
    """Return the call of a method with arguments by position and by name.

    Raises BadRequest if the method is not listed or does not take the arguments.
    """
    arguments = _ARGUMENTS.get(method)
    if arguments is None:
        known = ", ".join(METHODS)
        raise BadRequest(f"method: {shortened(method)!r} is none of {known}.", "method")
    names = list(arguments.model_fields)
    if len(args) > len(names):
        raise BadRequest(f"args: {method} takes {len(names)} at most.", "args")
    given = dict(zip(names, args, strict=False))
    for name in kwargs:
        if name in given or name not in names:
            raise BadRequest(f"kwargs: {method} does not take {shortened(name)!r} here.", "kwargs")
    return METHODS[method](**validate(arguments, given | kwargs).model_dump())
