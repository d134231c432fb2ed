"""Declare what a route requires of its client, beside the route.

Without a declaration a route requires a key. Operators' routes are those of an `OperatorBlueprint`.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, TypeVar

from quart import Blueprint, Quart
from werkzeug.routing import Rule

View = TypeVar("View", bound=Callable[..., Any])

_ATTRIBUTE = "headrace_public_when"


class Access(IntEnum):
    """What a client must have: nothing, a key, or an admin key."""

    PUBLIC = 0
    KEY = 1
    ADMIN = 2


class OperatorBlueprint(Blueprint):
    """A blueprint whose routes require an admin key."""


def _always() -> bool:
    return True


def public(when: Callable[[], bool] = _always) -> Callable[[View], View]:
    """Let a route be used without a key.

    when: whether that holds for the current request, where not all are alike.
    """

    def decorator(view: View) -> View:
        setattr(view, _ATTRIBUTE, when)
        return view

    return decorator


def required_access(app: Quart, rule: Rule | None) -> Access:
    """Return what a route requires, at the least; None: no route matches."""
    if rule is None:
        return Access.KEY
    blueprint = app.blueprints.get(str(rule.endpoint).rpartition(".")[0])
    if isinstance(blueprint, OperatorBlueprint):
        return Access.ADMIN
    return Access.KEY if _condition(app, rule) is None else Access.PUBLIC


def required_now(app: Quart, rule: Rule | None) -> Access:
    """Return what a route requires for the current request."""
    least = required_access(app, rule)
    if least is not Access.PUBLIC or rule is None:
        return least
    condition = _condition(app, rule)
    return Access.PUBLIC if condition is not None and condition() else Access.KEY


def _condition(app: Quart, rule: Rule) -> Callable[[], bool] | None:
    condition: Callable[[], bool] | None = getattr(
        app.view_functions.get(rule.endpoint), _ATTRIBUTE, None
    )
    return condition
