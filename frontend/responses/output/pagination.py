"""Paginate lists."""

from collections.abc import Sequence
from typing import Any

from headrace.frontend.errors import BadRequest
from headrace.frontend.schemas.responses import Item


def paginate(items: Sequence[Item], limit: int, after: str | None) -> dict[str, Any]:
    """Return a page of `limit` items after the item with the id `after`.

    Raises BadRequest if there is no such item.
    """
    start = 0
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise BadRequest("after: there is no such item.", "after")
        start = ids.index(after) + 1
    page = items[start : start + limit]
    return {
        "object": "list",
        "data": list(page),
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + limit < len(items),
    }
