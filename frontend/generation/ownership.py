"""Whose work a request to workers is, and how it ends with its owner: for all kinds of requests."""

import secrets
from collections.abc import Callable
from functools import partial
from typing import Protocol

from headrace.frontend.context import Context, ServedModel
from headrace.frontend.errors import ApiError, Stopping
from headrace.frontend.middleware import request_scope
from headrace.frontend.principal import Principal
from headrace.frontend.rate_limits.rate_limits import Reservation

Cleanups = list[Callable[[], None]]


class OwnedWork(Protocol):
    """What runs in workers for a client."""

    def interrupt(self, error: ApiError) -> None:
        """Stop, and raise this error to the reader."""
        ...

    def close(self) -> None:
        """Release everything. Has no effect after the end."""
        ...


def new_request_id() -> str:
    """Return an id that is unique in the pool."""
    return secrets.token_hex(12)


def owner_of(principal: Principal, user: str | None) -> tuple[str, str]:
    """Return the tenant and the user of a request, between whom workers are fair.

    user: as the request names it. Without keys each user is a tenant.
    """
    user = user or ""
    return (user, "") if principal.key is None else (principal.tenant, user)


def priority_of(asked: int) -> int:
    """Return the priority of a request. asked: the one that its body asks for."""
    scope = request_scope.current_or_none()
    fixed = None if scope is None else scope.priority
    return asked if fixed is None else fixed


def raise_interruption() -> None:
    """Raise the error with which an operator aborted the request while its texts were read."""
    scope = request_scope.current_or_none()
    if scope is not None and scope.interruption is not None:
        raise scope.interruption


def own(
    context: Context,
    model: ServedModel,
    work: OwnedWork,
    reservation: Reservation | None,
    cleanups: Cleanups | None = None,
) -> None:
    """Have work end when its owner does, the frontend drains or an operator aborts it.

    reservation: of its tokens, settled then. cleanups: the owner's; None: the HTTP request's.
    """
    scope = request_scope.current_or_none()
    owned_by = request_scope.current().cleanups if cleanups is None else cleanups
    owned_by += [
        work.close,
        context.drain.watch(partial(work.interrupt, Stopping())),
        context.abortable.watch(scope, model.group.name, work.interrupt),
        *([] if reservation is None else [reservation.settle]),
    ]
