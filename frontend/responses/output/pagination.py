"""Paginate lists."""

from collections.abc import Sequence
from typing import Any

from quart import request

from headrace.frontend.errors import BadRequest
from headrace.frontend.http.query import query_number
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


def requested_page(items: Sequence[Item]) -> dict[str, Any]:
    """Return the page that the current request's `limit`, `order` and `after` ask for.

    Raises BadRequest if one of them is invalid.
    """
    order = request.args.get("order", "desc")
    if order not in ("asc", "desc"):
        raise BadRequest("order: must be asc or desc.", "order")
    limit = query_number("limit", 20, 1, 100)
    ordered = items if order == "asc" else items[::-1]
    return paginate(ordered, limit, request.args.get("after"))
