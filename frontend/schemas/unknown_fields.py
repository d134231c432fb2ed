"""Collect the fields of a request that its models do not know, while it is validated.

Validators see objects without their place in the body. So what they note is the object itself, and
its place is looked up afterwards, only if something was noted.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

# Fields that are noted in a request; more are ignored without being named.
MAX_NOTED = 32

Path = tuple[str | int, ...]
_Link = tuple["_Link | None", str | int]

_COLLECTING: ContextVar["UnknownFields | None"] = ContextVar("unknown_fields", default=None)


class UnknownFields:
    """The unknown fields of one request, each name once for each kind of object.

    are_errors: whether one was in an object that must not have any.
    """

    def __init__(self) -> None:
        self.are_errors = False
        self._seen: set[tuple[Any, str]] = set()
        self._found: list[tuple[dict[str, Any], str]] = []

    def note(self, kind: Any, value: dict[str, Any], known: Collection[str]) -> None:
        """Note the names in an object that are not known. kind: of object, such as its class."""
        for name in value:
            if len(self._found) >= MAX_NOTED:
                return
            if name not in known and (kind, name) not in self._seen:
                self._seen.add((kind, name))
                self._found.append((value, name))

    def paths(self, body: dict[str, Any]) -> list[Path]:
        """Return where in the body the noted fields are; a name alone if it is not there."""
        if not self._found:
            return []
        missing = {id(value) for value, _ in self._found}
        places: dict[int, Path] = {}
        for link, value in _objects(body):
            if id(value) in missing:
                places[id(value)] = _unlinked(link)
                missing.remove(id(value))
                if not missing:
                    break
        return [(*places.get(id(value), ()), name) for value, name in self._found]


@contextmanager
def collect_unknown_fields() -> Iterator[UnknownFields]:
    """Collect the unknown fields of all that is validated within the context."""
    fields = UnknownFields()
    token = _COLLECTING.set(fields)
    try:
        yield fields
    finally:
        _COLLECTING.reset(token)


def note_unknown_fields(
    kind: Any, value: dict[str, Any], known: Collection[str], are_errors: bool = False
) -> None:
    """Note the unknown names in an object of a request.

    kind: of object, such as its class. are_errors: whether the object must not have any.
    """
    fields = _COLLECTING.get()
    if fields is not None:
        fields.note(kind, value, known)
        fields.are_errors |= are_errors


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return the paths as users read them: dotted, without the positions in lists."""
    dotted = (".".join(part for part in path if isinstance(part, str)) for path in paths)
    return list(dict.fromkeys(dotted))


def _objects(body: dict[str, Any]) -> Iterator[tuple[_Link | None, dict[str, Any]]]:
    """Yield all objects in a body with their places, in order, without recursion."""
    pending: list[tuple[_Link | None, Any]] = [(None, body)]
    while pending:
        link, value = pending.pop()
        inner: Iterator[tuple[str | int, Any]] = iter(())
        if isinstance(value, dict):
            yield link, value
            inner = reversed(value.items())
        elif isinstance(value, list) and value and type(value[0]) is not int:  # no token ids
            inner = zip(range(len(value) - 1, -1, -1), reversed(value), strict=True)
        pending += [((link, part), each) for part, each in inner if isinstance(each, (dict, list))]


def _unlinked(link: _Link | None) -> Path:
    parts: list[str | int] = []
    while link is not None:
        link, part = link
        parts.append(part)
    return tuple(reversed(parts))
