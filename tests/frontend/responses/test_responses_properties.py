"""Tools and items of any content: read or refused, never a failure, whatever clients send."""

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.frontend.errors import ApiError
from headrace.frontend.http.parsing import validate
from headrace.frontend.responses.output.event_writer import EventWriter
from headrace.frontend.responses.output.response_body import new_body
from headrace.frontend.responses.request.conversation import chat_messages
from headrace.frontend.responses.request.input_items import read_items
from headrace.frontend.responses.request.requested_tools import read_tools
from headrace.frontend.responses.request.tool_items import TOOL_PARSERS
from headrace.frontend.schemas.responses import Item, ResponsesRequest
from headrace.protocol.text import TextInfo

ID = "resp_" + "0" * 32
TEXTS = st.sampled_from(["", "a", "c1", "auto", "grammar", "lark", "regex", "text", "client"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
PARTS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["input_text", "output_text", "refusal", "input_image"])},
        optional={"text": st.text(max_size=5), "refusal": JSON},
    )
    | JSON,
    max_size=3,
)
ITEM_FIELDS = (
    "id call_id name namespace arguments input output action operation queries results code outputs"
    " tools execution status summary content encrypted_content role error server_label"
).split()
ITEM_TYPES = [
    *TOOL_PARSERS,
    "message",
    "reasoning",
    "compaction",
    "mcp_call",
    "mcp_list_tools",
    "x",
]
ITEMS = st.fixed_dictionaries(
    {"type": st.sampled_from(ITEM_TYPES)},
    optional=dict.fromkeys(ITEM_FIELDS, TEXTS | PARTS | JSON),
)
TOOL_TYPES = "function custom namespace mcp tool_search web_search shell file_search x".split()
TOOL_FIELDS = (
    "name description parameters strict format tools execution vector_store_ids server_label"
).split()
INNER_TOOLS = st.fixed_dictionaries(
    {"type": st.sampled_from(TOOL_TYPES)}, optional=dict.fromkeys(TOOL_FIELDS, JSON)
)
TOOLS = st.fixed_dictionaries(
    {"type": st.sampled_from(TOOL_TYPES)},
    optional={field: JSON | st.lists(INNER_TOOLS, max_size=2) for field in TOOL_FIELDS},
)
CHOICES = st.fixed_dictionaries(
    {"type": st.sampled_from(["function", "custom", "mcp", "allowed_tools", "web_search"])},
    optional={
        "name": JSON,
        "mode": TEXTS | st.just("required"),
        "tools": st.lists(INNER_TOOLS, max_size=2),
        "server_label": TEXTS,
    },
)


def param_of_refusal(read: Callable[[], object]) -> str | None:
    """The field at fault, "" for none; None if nothing is.

    A malformed body's fields are named from the body on, other faults' from their first field.
    """
    try:
        read()
    except ApiError as error:
        return (error.param or "").removeprefix("body.")
    return None


@settings(max_examples=400, deadline=None)
@given(st.lists(ITEMS, max_size=4))
def test_items_are_read_or_refused(items: list[Item]) -> None:
    refused = param_of_refusal(lambda: read_items(items, ID, {}))
    if refused is not None:
        assert refused.startswith("input.")
        return
    read = read_items(items, ID, {}).items
    # What was read is what a client would send back.
    again = read_items(read, ID, {}).items
    assert again == read
    assert chat_messages(None, again) == chat_messages(None, read)


@settings(max_examples=400, deadline=None)
@given(st.lists(TOOLS, max_size=3), CHOICES | st.just("auto"))
def test_tools_are_read_or_refused_and_events_can_show_them(tools: list[Item], choice: Any) -> None:
    bodies: list[Any] = []

    def create() -> None:
        request = validate(ResponsesRequest, {"input": "x", "tools": tools, "tool_choice": choice})
        info = TextInfo(max_model_len=9, vocab_size=9)
        bodies.append(new_body(ID, 0, request, "m", info, read_tools(request, [])))

    refused = param_of_refusal(create)
    if refused is not None:
        assert refused.startswith(("tools", "tool_choice"))
        return
    EventWriter(lambda _: None).lifecycle("created", bodies[0])
