"""Check the headers' number, Host and the path of a request before its route sees them."""

import re
from typing import cast

from quart import request
from werkzeug.exceptions import NotFound

from headrace.frontend.errors import BadRequest, TooManyHeaders
from headrace.frontend.middleware.asgi import ASGIApp, ASGIScope, Receive, Send

REJECTION_KEY = "headrace.rejection"  # in the ASGI scope: the error to answer with

# RFC 3986: a name or an IPv4 address of unreserved characters, sub-delimiters and percent
# escapes, or an IP literal in brackets; then perhaps a port.
_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-fvV:.]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]{0,5})?"
)


class AddressMiddleware:
    """Wraps an ASGI application and flags requests with an invalid address.

    `reject_if_flagged` rejects them once there is a request to answer.
    root_path: the prefix under which a proxy offers this server. The application sees paths
        without it, whether the proxy strips it or not.
    max_headers, max_bytes: the greatest number of a request's headers, and their size. The HTTP
        parser limits only what it has not yet read as a whole.
    """

    def __init__(self, app: ASGIApp, root_path: str, max_headers: int, max_bytes: int) -> None:
        self._app = app
        self._root_path = root_path.rstrip("/")
        self._max_headers, self._max_bytes = max_headers, max_bytes

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = self._without_root(_path_only(scope["path"]))
        scope = {**scope, "path": path, "root_path": ""}
        hosts = [value for name, value in scope["headers"] if name.lower() == b"host"]
        if len(hosts) > 1 or not all(_is_valid_host(host) for host in hosts):
            others = [item for item in scope["headers"] if item[0].lower() != b"host"]
            scope["headers"] = [*others, (b"host", b"")]
            scope[REJECTION_KEY] = BadRequest(
                "Host: must be one name or address, perhaps with a port."
            )
        elif len(scope["headers"]) > self._max_headers:
            scope[REJECTION_KEY] = TooManyHeaders(
                f"The request must not have more than {self._max_headers} headers."
            )
        elif sum(len(name) + len(value) for name, value in scope["headers"]) > self._max_bytes:
            scope[REJECTION_KEY] = TooManyHeaders(
                f"The request's headers must not have more than {self._max_bytes} bytes."
            )
        elif not path.startswith("/") or path.startswith("//"):
            # The router would take it for the path with one slash.
            scope[REJECTION_KEY] = NotFound()
        await self._app(scope, receive, send)

    def _without_root(self, path: str) -> str:
        root = self._root_path
        if root and (path == root or path.startswith(f"{root}/")):
            return path[len(root) :] or "/"
        return path


def _is_valid_host(host: bytes) -> bool:
    """Return whether the router takes a Host: it wants labels of 1 to 63 characters."""
    if not _HOST.fullmatch(host):
        return False
    try:
        host.partition(b":")[0].decode("ascii").encode("idna")
    except UnicodeError:
        return False
    return True


def reject_if_flagged() -> None:
    """Raise the error that the current request must be rejected with, if it was flagged."""
    error = cast(ASGIScope, request.scope).get(REJECTION_KEY)
    if error is not None:
        raise error


def _path_only(target: str) -> str:
    """Return the path of a request target, which may be a full URL."""
    if target.startswith("/") or "://" not in target:
        return target
    return "/" + target.partition("://")[2].partition("/")[2]
