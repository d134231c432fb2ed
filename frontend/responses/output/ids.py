"""Make the ids of responses and of their items.

An item's id holds the id of its response, so that a reference shows where the item is stored, and
depends only on its index, so that a response that is run again gives its items the same ids.
"""

import re
import secrets

_RESPONSE = re.compile(r"resp_([0-9a-f]{32})")
_CONVERSATION = re.compile(r"conv_[0-9a-f]{32}")
_ITEM = re.compile(r"[a-z]{1,8}_([0-9a-f]{32})(i?)[0-9a-f]{4}")

PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "tool_search_call": "tsc",
    "tool_search_output": "tso",
    "local_shell_call": "lsh",
    "local_shell_call_output": "lsho",
    "shell_call": "sh",
    "shell_call_output": "sho",
    "apply_patch_call": "apc",
    "apply_patch_call_output": "apco",
    "computer_call": "cu",
    "computer_call_output": "cuo",
    "web_search_call": "ws",
    "file_search_call": "fs",
    "code_interpreter_call": "ci",
    "compaction": "cmp",
    "mcp_call": "mcp",
    "mcp_list_tools": "mcpl",
}


def new_response_id() -> str:
    """Return a new id; it is unguessable, as anyone who knows it may read the response."""
    return f"resp_{secrets.token_hex(16)}"


def is_response_id(text: str) -> bool:
    """Return whether a text has the form of a response id."""
    return _RESPONSE.fullmatch(text) is not None


def new_conversation_id() -> str:
    """Return a new id of a conversation, as unguessable as that of a response."""
    return f"conv_{secrets.token_hex(16)}"


def is_conversation_id(text: str) -> bool:
    """Return whether a text has the form of a conversation's id."""
    return _CONVERSATION.fullmatch(text) is not None


def output_id(response_id: str, kind: str, index: int) -> str:
    """Return the id of an output item. kind: its type. index: in the output."""
    return f"{PREFIXES[kind]}_{response_id.removeprefix('resp_')}{index:04x}"


def input_id(response_id: str, kind: str, index: int) -> str:
    """Return the id of an input item without one. kind: its type. index: in the input."""
    return f"{PREFIXES[kind]}_{response_id.removeprefix('resp_')}i{index:04x}"


def response_id_of(item_id: str) -> str | None:
    """Return the id of the response that an item belongs to; None if the id is not ours."""
    match = _ITEM.fullmatch(item_id)
    return None if match is None else f"resp_{match[1]}"
