"""Wrap the application in an operator's own middleware (--middleware)."""

import importlib
import inspect
import logging
from collections.abc import Sequence
from typing import Any

from headrace.frontend.errors import FAILURE, InternalError
from headrace.frontend.middleware.asgi import ASGIApp, ASGIScope, NotingSend, Receive, Send
from headrace.frontend.middleware.early_answer import send_error

log = logging.getLogger("headrace.frontend")


class MiddlewareError(Exception):
    """A middleware cannot be used. The text is one line."""


def load(path: str) -> Any:
    """Return the class or the async function at an import path. Raises MiddlewareError."""
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a module may raise anything
        said = " ".join(f"{type(error).__name__}: {error}".split())
        hint = "; PYTHONPATH names folders" if isinstance(error, ModuleNotFoundError) else ""
        raise MiddlewareError(
            f"{path}: {module_name} cannot be imported ({said[:500]}){hint}"
        ) from error
    found = getattr(module, name, None)
    if found is None:
        raise MiddlewareError(f"{path}: {module_name} has no {name}")
    if not inspect.isclass(found) and not inspect.iscoroutinefunction(found):
        raise MiddlewareError(f"{path}: must be a class or an async function")
    return found


def wrap(app: ASGIApp, paths: Sequence[str]) -> ASGIApp:
    """Return the application in its middleware: the last path's is the outermost.

    Raises MiddlewareError if one cannot be loaded or made.
    """
    if not paths:
        return app
    for path in paths:
        app = _wrap_once(app, path)
    return _Guard(app)


def _made(middleware: Any, app: ASGIApp) -> ASGIApp:
    wrapped: ASGIApp = middleware(app)
    return wrapped


def _wrap_once(app: ASGIApp, path: str) -> ASGIApp:
    found: Any = load(path)
    wrapped: ASGIApp
    try:
        if inspect.isclass(found):
            wrapped = _made(found, app)
        else:
            from starlette.middleware.base import BaseHTTPMiddleware  # late: few servers need it

            wrapped = BaseHTTPMiddleware(app, dispatch=found)
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise MiddlewareError(f"{path}: cannot be made ({said[:500]})") from error
    return wrapped


class _Guard:
    """Answers a request whose middleware has failed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        noting = NotingSend(send)
        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            log.error("a middleware has failed", exc_info=error)
            if noting.has_begun:
                raise
            failure = InternalError(FAILURE)
            await send_error(send, failure, failure.body())
