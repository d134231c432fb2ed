"""Find the route of a request before the application does, as the application does."""

from quart import Quart
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter, RequestRedirect, Rule


class RouteFinder:
    """The routes of an application whose routes are all registered."""

    def __init__(self, app: Quart) -> None:
        app.url_map.update()
        self._adapter: MapAdapter = app.url_map.bind("")
        # Most requests are for paths without variables, which one look-up finds.
        self._static = {
            (rule.rule, method): rule
            for rule in app.url_map.iter_rules()
            if not rule.arguments and not rule.websocket
            for method in rule.methods or ()
        }

    def find(self, path: str, method: str) -> Rule | None:
        """Return the rule that a path is routed to; None if there is none for this method.

        path: without the root path, as the application gets it.
        """
        rule = self._static.get((path, method))
        if rule is not None or not path.startswith("/"):
            return rule
        try:
            found, _ = self._adapter.match(path, method, return_rule=True, websocket=False)
        except (HTTPException, RequestRedirect):
            return None
        return found
