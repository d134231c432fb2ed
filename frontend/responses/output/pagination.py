"""Lists in pages."""

from collections.abc import Sequence
from typing import Any

from headrace.frontend.errors import BadRequest
from headrace.frontend.schemas.responses import Item


def paginate(items: Sequence[Item], limit: int, after: str | None) -> dict[str, Any]:
    """A list's page: `limit` items, those after the item of an id. BadRequest if there is none."""
    start = 0
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise BadRequest("after: there is no such item.", "after")
        start = ids.index(after) + 1
    shown = items[start : start + limit]
    return {
        "object": "list",
        "data": list(shown),
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": start + limit < len(items),
    }
