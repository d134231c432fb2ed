"""A server's routes, asked with what Python brings along."""

import json
import urllib.error
import urllib.request
from typing import Any, cast

TIMEOUT_S = 5.0


class Unreachable(Exception):
    """There is no answer; the text is one line."""


class Client:
    """url: where the server serves, and under which prefix."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def text(self, path: str) -> str:
        """The body of an answer, whatever its status: /health tells more than its status says."""
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
        """An answer that is a JSON object."""
        try:
            value = json.loads(self.text(path))
        except ValueError as error:
            raise Unreachable(f"{self.url}{path} is not of this server") from error
        if not isinstance(value, dict):
            raise Unreachable(f"{self.url}{path} is not of this server")
        return value
