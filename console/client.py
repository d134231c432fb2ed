"""A client of a server's routes, with Python's standard library."""

import json
import urllib.error
import urllib.request
from typing import Any, cast

TIMEOUT_S = 5.0


class Unreachable(Exception):
    """The server did not answer as Headrace does. The text is one line."""


class Client:
    """A client of one server. url: its address, with its prefix if it has one."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def text(self, path: str) -> str:
        """Get a body, whatever the status: that of /health matters with a 503, too.

        Raises Unreachable if there is no answer.
        """
        try:
            with urllib.request.urlopen(self.url + path, timeout=TIMEOUT_S) as answer:
                return cast(bytes, answer.read()).decode(errors="replace")
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode(errors="replace")
        except (OSError, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise Unreachable(f"{self.url} does not answer: {reason}") from error

    def json(self, path: str) -> dict[str, Any]:
        """Get a JSON object. Raises Unreachable if the answer is not one."""
        try:
            value = json.loads(self.text(path))
        except ValueError as error:
            raise Unreachable(f"{self.url}{path} is not of this server") from error
        if not isinstance(value, dict):
            raise Unreachable(f"{self.url}{path} is not of this server")
        return value
