"""Ids of responses and of their items.

An item's id holds its response's, so that a reference to it tells where it is stored, and is a
function of its place, so that a response which is run again gives its items the same ids.
"""

import re
import secrets

_RESPONSE = re.compile(r"resp_([0-9a-f]{32})")
_ITEM = re.compile(r"[a-z]{1,8}_([0-9a-f]{32})(i?)[0-9a-f]{4}")

PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "mcp_call": "mcp",
    "mcp_list_tools": "mcpl",
}


def new_response_id() -> str:
    """Unguessable: whoever knows it may read the response."""
    return f"resp_{secrets.token_hex(16)}"


def is_response_id(text: str) -> bool:
    return _RESPONSE.fullmatch(text) is not None


def output_id(response_id: str, kind: str, index: int) -> str:
    """Of the item at a place of the response's output."""
    return f"{PREFIXES[kind]}_{response_id.removeprefix('resp_')}{index:04x}"


def input_id(response_id: str, kind: str, index: int) -> str:
    """Of the item at a place of the request's input, if the client has not named it."""
    return f"{PREFIXES[kind]}_{response_id.removeprefix('resp_')}i{index:04x}"


def response_id_of(item_id: str) -> str | None:
    """The id of the response that an item belongs to; None if it is not one of our ids."""
    match = _ITEM.fullmatch(item_id)
    return None if match is None else f"resp_{match[1]}"
