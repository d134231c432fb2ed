"""The requests in flight of this frontend, by the ids that their clients know."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from headrace.frontend.errors import ApiError, Unavailable
from headrace.frontend.middleware.request_scope import RequestScope

ABORTED = "The operator of the server has ended this request."
Interrupt = Callable[[ApiError], None]


@dataclass(frozen=True, slots=True)
class _Watched:
    """Abortable work.

    scope: of its HTTP request, which may still get more names; None if the work outlives it.
    group: "" if only the scope will know it.
    """

    names: Sequence[str]
    scope: RequestScope | None
    group: str
    interrupt: Interrupt

    def is_of(self, group: str) -> bool:
        known = self.group or (self.scope.group if self.scope is not None else "")
        return not group or known == group

    @property
    def first_name(self) -> str:
        """The name of its own, or the id of its HTTP request."""
        return self.names[0] if self.names or self.scope is None else self.scope.request_id

    def all_names(self) -> set[str]:
        known = set(self.names)
        return known if self.scope is None else known | self.scope.names


@dataclass(frozen=True)
class Abortable:
    """Work that operators may abort. names: of the work, besides those of its HTTP request."""

    names: tuple[str, ...] = ()
    _watched: dict[object, _Watched] = field(default_factory=dict)

    def with_name(self, name: str) -> "Abortable":
        """Return the same for work that has a name of its own."""
        return replace(self, names=(*self.names, name))

    def watch(
        self, scope: RequestScope | None, group: str, interrupt: Interrupt
    ) -> Callable[[], None]:
        """Interrupt work when it is aborted. Returns a function to call when the work has ended.

        group: of the workers that run it; "": its scope will know.
        """
        key = object()
        self._watched[key] = _Watched(self.names, scope, group, interrupt)

        def forget() -> None:
            self._watched.pop(key, None)

        return forget

    def abort(self, request_ids: Iterable[str] | None, group: str = "") -> list[str]:
        """Abort these requests (None: all) of a group ("": of all groups).

        Returns the given names that were found; if all are aborted, one name of each request.
        """
        wanted = None if request_ids is None else set(request_ids)
        found: dict[object, set[str]] = {}  # by HTTP request
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
