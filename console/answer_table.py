"""Prints an answer of the server as a table, for scripts/pool.sh."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

# Tables in files and pipes must not be cut at a terminal's width.
_WIDTH = 140


class _Foreign(Exception):
    """The answer is not one that this server gives."""


def main(words: Sequence[str] = ()) -> int:
    """Read "STATUS\\nBODY" from standard input; return 1 if it reports a failure.

    words: "text" for a route that answers in plain text.
    """
    status, _, body = sys.stdin.read().partition("\n")
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    if status == "200" and "text" in words and not body.lstrip().startswith("<"):
        console.print(body, markup=False)
        return 0
    answer = _parse(body)
    try:
        if status == "200":
            console.print(_shown(answer), markup=False)
            return 0
        if isinstance(answer, dict) and "groups" in answer:  # /health answers 503 with its table
            console.print(table(answer))
            problem = f"the pool is {answer['status']}"
        else:
            problem = _error(answer, status)
    except (_Foreign, LookupError, TypeError, ValueError, AttributeError):
        problem = "the answer is not one of this server: is the URL right?"
    print(f"pool.sh: error: {problem} (status {status})", file=sys.stderr)
    return 1


def _parse(body: str) -> object:
    """Return the JSON value of a body; None if it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _shown(answer: object) -> str | RenderableType:
    """Return what to print of a good answer. Raises _Foreign if it is none of this server."""
    if not isinstance(answer, dict):
        raise _Foreign
    return str(answer["message"]) if "message" in answer else table(answer)


def table(answer: dict[str, Any]) -> RenderableType:
    """Return a table of /health?verbose, of /v1/models, or of the results of an admin call.

    Raises _Foreign for anything else, and LookupError, TypeError, ValueError or AttributeError.
    """
    if "groups" in answer:
        workers = [worker for group in answer["groups"] for worker in group["workers"]]
        title = str(answer["status"])
        parts: list[RenderableType] = [_table(workers, title) if workers else Text(title)]
        parts += map(_lacking, answer["groups"])
        return Lines(*parts, *_reload_lines(answer.get("reload")))
    if "data" in answer:
        shown = ("id", "root", "parent", "max_model_len")
        models = [{key: model.get(key) for key in shown} for model in answer["data"]]
        return _table(models, "models")
    if "workers" not in answer:
        raise _Foreign
    return _table([_flat(result) for result in answer["workers"]], "done")


def _lacking(group: dict[str, Any]) -> Text:
    return Text(f"{group['name']}: {group['ready']} of {group['wanted']} workers ready")


def _reload_lines(reload: dict[str, Any] | None) -> list[Text]:
    """Return a line about the last rolling restart."""
    if not reload:
        return []
    what = (f"{key} {reload[key]}" for key in ("old", "new", "reason") if key in reload)
    return [Text(", ".join((f"reload {reload['number']}: {reload['phase']}", *what)))]


def _flat(result: dict[str, Any]) -> dict[str, Any]:
    value = result.get("value")
    others = {key: item for key, item in result.items() if key not in ("value", "error")}
    return others | (
        value if isinstance(value, dict) else {} if value is None else {"value": value}
    )


def _table(rows: list[dict[str, Any]], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        table.add_column(column.replace("_", " "))
    for row in rows:
        table.add_row(*(str(row.get(column, "")) for column in columns))
    return table


def _error(answer: object, status: str) -> str:
    """Return the message of an error. Raises _Foreign if it is none of this server's."""
    if status == "401":
        return "a valid key is needed: set HEADRACE_ADMIN_KEY or HEADRACE_API_KEY"
    if not isinstance(answer, dict):
        raise _Foreign
    error = answer.get("error")
    if isinstance(error, dict):
        return str(error.get("message", error))
    if answer.get("detail") == "Not Found":
        return "there is no such route: the server must be started with --enable-admin"
    if "detail" not in answer:
        raise _Foreign
    return str(answer["detail"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
