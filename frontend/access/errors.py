"""Errors of clients that may not do what they ask for."""

from typing import Any

from headrace.frontend.errors import ApiError


class Unauthorized(ApiError):
    """No valid key. The body is the reference's."""

    status = 401
    kind = "Unauthorized"

    def __init__(self) -> None:
        super().__init__(
            "A valid API key is needed, as Authorization: Bearer or x-api-key.",
            headers={"WWW-Authenticate": 'Bearer realm="headrace"'},
        )

    def body(self) -> dict[str, Any]:
        return {"error": "Unauthorized"}


class Forbidden(ApiError):
    """The client may not do this, whoever it is or with the valid key that it has."""

    status = 403
    kind = "Forbidden"


def needs_admin(has_admin: bool) -> Forbidden:
    """Return the error of an operators' route. has_admin: whether there is any admin key."""
    if has_admin:
        return Forbidden("This route needs an admin key.")
    return Forbidden("This route needs an admin key, and the server has none (--admin-key).")
