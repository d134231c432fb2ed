"""Name the fields of input items that no item of OpenAI's API has."""

from collections.abc import Iterator
from typing import Any

from headrace.frontend.schemas.responses import Item

# Of all kinds of items together: which kind has which field changes, and some clients mix them.
_ITEM_FIELDS = frozenset(
    """
    acknowledged_safety_checks action actions agent approval_request_id approve arguments async
    author background call_id caller code container_id content created_by encrypted_content
    environment error execution fingerprint id input max_output_length name namespace operation
    output output_format outputs pending_safety_checks phase quality queries reason reasoning
    recipient result results revised_prompt role server_label size status summary svg_usage text
    tools type
    """.split()
)
_PART_FIELDS = frozenset(
    ("annotations", "logprobs", "prompt_cache_breakpoint", "refusal", "text", "type")
)


def unknown_item_fields(item: Item, field: str) -> Iterator[str]:
    """Yield the names of unknown fields of an item, and of the parts of its content.

    field: of the request that holds the items. Fields without a value are left out.
    """
    yield from _unknown(item, _ITEM_FIELDS, field)
    content = item.get("content")
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict):
            yield from _unknown(part, _PART_FIELDS, f"{field}.content")


def _unknown(value: dict[str, Any], known: frozenset[str], where: str) -> Iterator[str]:
    if not value.keys() <= known:
        yield from (
            f"{where}.{name}"
            for name, held in value.items()
            if name not in known and held is not None
        )
