"""The methods of workers that POST /collective_rpc may call, and the arguments that they take.

Only what is listed here can be called: a worker can do far more than it is to do by name.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict

from headrace.frontend.errors import BadRequest, shortened
from headrace.frontend.http.parsing import validate


class NoArguments(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class ResetPrefixCache(NoArguments):
    """reset_running_requests: as of POST /reset_prefix_cache."""

    reset_running_requests: bool = False


METHODS: dict[str, type[NoArguments]] = {
    "info": NoArguments,
    "memory": NoArguments,
    "ping": NoArguments,
    "reset_prefix_cache": ResetPrefixCache,
    "stats": NoArguments,
}


def worker_arguments(method: str, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments as the workers take them. BadRequest for a method that is not listed, and for
    arguments that it does not take."""
    taken = METHODS.get(method)
    if taken is None:
        known = ", ".join(METHODS)
        raise BadRequest(f"method: {shortened(method)!r} is none of {known}.", "method")
    names = list(taken.model_fields)
    if len(args) > len(names):
        raise BadRequest(f"args: {method} takes {len(names)} at most.", "args")
    given = dict(zip(names, args, strict=False))
    for name in kwargs:
        if name in given or name not in names:
            raise BadRequest(f"kwargs: {method} does not take {shortened(name)!r} here.", "kwargs")
    checked = validate(taken, given | kwargs)
    if isinstance(checked, ResetPrefixCache):
        return {"recompute_running": checked.reset_running_requests}
    return {}
