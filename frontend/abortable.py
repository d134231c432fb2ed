"""Requests for text under way in this frontend, by what their clients know them by."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from headrace.frontend.errors import ApiError, Unavailable
from headrace.frontend.middleware.request_scope import RequestScope

ABORTED = "The operator of the server has ended this request."
Interrupt = Callable[[ApiError], None]


@dataclass(frozen=True, slots=True)
class _Watched:
    """scope: of its HTTP request, which may get further names yet; None if it has outlived it.
    group: "" if only the scope will know it."""

    names: Sequence[str]
    scope: RequestScope | None
    group: str
    interrupt: Interrupt

    def is_of(self, group: str) -> bool:
        known = self.group or (self.scope.group if self.scope is not None else "")
        return not group or known == group

    @property
    def first_name(self) -> str:
        """The one of its own, else the one that its HTTP request came with."""
        return self.names[0] if self.names or self.scope is None else self.scope.request_id

    def all_names(self) -> set[str]:
        known = set(self.names)
        return known if self.scope is None else known | self.scope.names


@dataclass(frozen=True)
class Abortable:
    """names: by which whatever is watched is known, besides those of its HTTP request."""

    names: tuple[str, ...] = ()
    _watched: dict[object, _Watched] = field(default_factory=dict)

    def named(self, name: str) -> "Abortable":
        """The same for work that has a name of its own."""
        return replace(self, names=(*self.names, name))

    def watch(
        self, scope: RequestScope | None, group: str, interrupt: Interrupt
    ) -> Callable[[], None]:
        """Have work interrupted when it is to be aborted. group: whose workers do it; "": as its
        scope will say. Returns what is to be called when it has
        ended in whatever way."""
        key = object()
        self._watched[key] = _Watched(self.names, scope, group, interrupt)

        def forget() -> None:
            self._watched.pop(key, None)

        return forget

    def abort(self, request_ids: Iterable[str] | None, group: str = "") -> list[str]:
        """End these requests, or all for None, of one group or of all for "". Which ones there
        were; of all, one name of each."""
        wanted = None if request_ids is None else set(request_ids)
        found: dict[object, set[str]] = {}  # by what is one request to its client
        for each in list(self._watched.values()):
            names = each.all_names()
            if not each.is_of(group) or (wanted is not None and wanted.isdisjoint(names)):
                continue
            request = each.first_name if each.scope is None else id(each.scope)
            if wanted is not None:
                found.setdefault(request, set()).update(wanted & names)
            elif each.names or request not in found:
                found[request] = {each.first_name}
            each.interrupt(Unavailable(ABORTED))
        return sorted(set().union(*found.values()))
