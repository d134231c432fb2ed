"""Prints an answer of the server as a table, for scripts/pool.sh."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

# Tables in files and pipes must not be cut at a terminal's width.
_WIDTH = 140


def main() -> int:
    """Read "STATUS\\nBODY" from standard input; return 1 if it reports a failure."""
    status, _, body = sys.stdin.read().partition("\n")
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    try:
        answer = json.loads(body)
    except ValueError:
        answer = {"detail": body[:200] or "the answer is empty"}
        if status == "200" and body:  # the routes of adapters answer in plain text
            answer = {"message": body}
    if status == "401":
        answer = {"detail": "a valid key is needed: set HEADRACE_ADMIN_KEY or HEADRACE_API_KEY"}
    if status != "200":
        print(f"pool.sh: error: {_error(answer)} (status {status})", file=sys.stderr)
        return 1
    console.print(str(answer["message"]) if "message" in answer else table(answer))
    return 0


def table(answer: dict[str, Any]) -> Table:
    """Return a table of /health?verbose, of /v1/models, or of the results of an admin call."""
    if "groups" in answer:
        workers = [worker for group in answer["groups"] for worker in group["workers"]]
        return _table(workers, f"{answer['status']}")
    if "data" in answer:
        shown = ("id", "root", "parent", "max_model_len")
        return _table([{key: model[key] for key in shown} for model in answer["data"]], "models")
    return _table([_flat(result) for result in answer.get("workers", [])], "done")


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


def _error(answer: object) -> str:
    if not isinstance(answer, dict):
        return str(answer)
    error = answer.get("error")
    if isinstance(error, dict):
        return str(error.get("message", error))
    if answer.get("detail") == "Not Found":
        return "there is no such route: the server must be started with --enable-admin"
    return str(answer.get("detail", answer))


if __name__ == "__main__":
    sys.exit(main())
