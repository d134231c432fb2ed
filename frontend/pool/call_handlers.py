"""The admin calls that a frontend answers, by their classes."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from headrace.protocol.call_results import AnyResult
from headrace.protocol.calls import AdminCall, CallToFrontends

C = TypeVar("C", bound=AdminCall)


class FrontendCallHandlers:
    """A handler returns the result of a call, or an awaitable of it."""

    def __init__(self) -> None:
        self._handlers: dict[
            type[AdminCall], Callable[[Any], AnyResult | Awaitable[AnyResult]]
        ] = {}

    def add(self, kind: type[C], handler: Callable[[C], AnyResult | Awaitable[AnyResult]]) -> None:
        """Have `handler` execute calls of a class."""
        self._handlers[kind] = handler

    @property
    def handled(self) -> frozenset[type[AdminCall]]:
        """The classes of calls that have a handler."""
        return frozenset(self._handlers)

    def execute(self, call: CallToFrontends) -> AnyResult | Awaitable[AnyResult]:
        """Begin to execute a call; return its result, or an awaitable of it."""
        return self._handlers[type(call)](call)
