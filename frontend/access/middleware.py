"""Let only clients with a key through to the application.

Sits outside Quart and outside what rejects requests while the pool is full: a rejection costs
little, and does not tell how busy the pool is.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

from quart import Quart, request
from werkzeug.routing import Rule

from headrace.frontend.access.credentials import credentials
from headrace.frontend.access.errors import Unauthorized, needs_admin
from headrace.frontend.access.key_table import KeyTable
from headrace.frontend.access.other_sites import refusal_of_page
from headrace.frontend.access.required_access import Access, required_access, required_now
from headrace.frontend.access.route_finder import RouteFinder
from headrace.frontend.errors import ApiError
from headrace.frontend.limited_log import LimitedLog
from headrace.frontend.metrics.rejections import RejectionReason
from headrace.frontend.middleware import request_scope
from headrace.frontend.middleware.address import REJECTION_KEY
from headrace.frontend.middleware.asgi import ASGIApp, ASGIScope, Receive, Send
from headrace.frontend.middleware.early_answer import answer_early
from headrace.frontend.middleware.request_scope import KEY, RequestScope
from headrace.protocol.api_keys import ApiKey

# Returns the body of an error; gets the request's id, too.
ErrorBody = Callable[[ApiError, str], dict[str, Any]]

log = logging.getLogger("headrace.frontend")
_LOG = LimitedLog(log)
_LINES: dict[RejectionReason, str] = {
    "no_key": "rejected a request without a key",
    "wrong_key": "rejected a request with a wrong key",
    "not_admin": "rejected a request for an operators' route with a key that is not an admin's",
}


class AccessMiddleware:
    """Wraps an ASGI application; must be inside the scope and address middleware.

    table: of keys. routes: whose routes are all registered. bodies: of errors at a path and below
    it, where they are of another shape. allowed_origins: of the sites whose pages may use a server
    without keys.
    """

    def __init__(
        self,
        app: ASGIApp,
        table: KeyTable,
        routes: Quart,
        bodies: Mapping[str, ErrorBody],
        allowed_origins: Collection[str] = (),
    ) -> None:
        self._app, self._table, self._quart, self._bodies = app, table, routes, bodies
        self._allowed_origins = allowed_origins
        self._routes = RouteFinder(routes)

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if self._table.is_open or scope["type"] == "lifespan":
            await self._pass_on(scope, receive, send)
            return
        if scope["type"] != "http":  # no route is for WebSockets
            await send({"type": "websocket.close", "code": 1008})
            return
        current = cast(RequestScope, scope[KEY])
        offered = credentials(scope["headers"])
        current.key = self._first_known(offered)
        rule = None
        if REJECTION_KEY not in scope:  # no route will see it
            rule = self._routes.find(scope["path"], scope["method"])
        required = required_access(self._quart, rule)
        error = denial(self._table, required, current, has_offered=bool(offered))
        if error is None:
            await self._app(scope, receive, send)
            return
        current.handler = "none" if rule is None else rule.rule
        await answer_early(receive, send, error, self._body(scope["path"], error, current))

    async def _pass_on(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Pass a request without a key on, unless a page of another site has sent it."""
        error = None
        if scope["type"] == "http":
            error = refusal_of_page(scope, self._allowed_origins)
        if error is None:
            await self._app(scope, receive, send)
            return
        body = self._body(scope["path"], error, cast(RequestScope, scope[KEY]))
        await answer_early(receive, send, error, body)

    def _first_known(self, offered: list[bytes]) -> ApiKey | None:
        found = [self._table.find(secret) for secret in offered]
        return next((key for key in found if key is not None), None)

    def _body(self, path: str, error: ApiError, current: RequestScope) -> dict[str, Any]:
        for prefix, body in self._bodies.items():
            if path == prefix or path.startswith(f"{prefix}/"):
                error.headers["request-id"] = current.request_id
                return body(error, current.request_id)
        return error.body()


def denial(
    table: KeyTable, required: Access, current: RequestScope, has_offered: bool
) -> ApiError | None:
    """Return the error of a request that lacks the access that it requires; None if it has it.

    has_offered: whether it has sent any key.
    """
    if required is Access.PUBLIC or current.is_internal:
        return None
    if current.key is None:
        return _noted(current, "wrong_key" if has_offered else "no_key", Unauthorized())
    if required is Access.ADMIN and not current.key.is_admin:
        return _noted(current, "not_admin", needs_admin(table.has_admin))
    return None


def check_routed(table: KeyTable, app: Quart, rule: Rule | None) -> None:
    """Raise ApiError if the current request lacks the access that its route requires.

    The route is the one that is about to run, however its address was written. This also checks
    what only the whole request tells.
    """
    if table.is_open:
        return
    current = request_scope.current()
    headers = cast(ASGIScope, request.scope)["headers"]
    has_offered = current.key is not None or bool(credentials(headers))
    error = denial(table, required_now(app, rule), current, has_offered)
    if error is not None:
        raise error


def _noted(current: RequestScope, reason: RejectionReason, error: ApiError) -> ApiError:
    current.rejection_reason = reason
    _LOG.warning(_LINES[reason])
    return error
