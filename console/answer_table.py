"""What scripts/pool.sh prints: an answer of the server as a table."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

# Tables in files and pipes are not to be cut at a terminal's width.
_WIDTH = 140


def main() -> int:
    """Read "STATUS\\nBODY" from standard input; 1 if it tells of a failure."""
    status, _, body = sys.stdin.read().partition("\n")
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    try:
        told = json.loads(body)
    except ValueError:
        told = {"detail": body[:200] or "the server has said nothing"}
        if status == "200" and body:  # adapters are told of in plain words
            told = {"message": body}
    if status != "200":
        print(f"pool.sh: error: {_error(told)} (status {status})", file=sys.stderr)
        return 1
    console.print(str(told["message"]) if "message" in told else table(told))
    return 0


def table(told: dict[str, Any]) -> Table:
    """Of /health?verbose, of /v1/models, or of what came of a call at each worker."""
    if "groups" in told:
        workers = [each for group in told["groups"] for each in group["workers"]]
        return _table(workers, f"{told['status']}")
    if "data" in told:
        shown = ("id", "root", "parent", "max_model_len")
        return _table([{key: each[key] for key in shown} for each in told["data"]], "models")
    return _table([_flat(each) for each in told.get("workers", [])], "done")


def _flat(report: dict[str, Any]) -> dict[str, Any]:
    value = report.get("value")
    rest = {key: item for key, item in report.items() if key not in ("value", "error")}
    return rest | (value if isinstance(value, dict) else {} if value is None else {"value": value})


def _table(rows: list[dict[str, Any]], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        table.add_column(column.replace("_", " "))
    for row in rows:
        table.add_row(*(str(row.get(column, "")) for column in columns))
    return table


def _error(told: Any) -> str:
    error = told.get("error") if isinstance(told, dict) else None
    if isinstance(error, dict):
        return str(error.get("message", error))
    if isinstance(told, dict) and told.get("detail") == "Not Found":
        return "there is no such route: the server has to be started with --enable-admin"
    return str(told.get("detail", told)) if isinstance(told, dict) else str(told)


if __name__ == "__main__":
    sys.exit(main())
