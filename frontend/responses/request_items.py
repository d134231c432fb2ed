"""Gather the items that a response continues, and those of its own input."""

from collections.abc import Sequence
from typing import NamedTuple

from headrace.frontend.errors import ApiError, BadRequest, InvalidBody
from headrace.frontend.http.parsing import ignore_parts
from headrace.frontend.process.worker_thread import MANY_PARTS, run_in_worker_thread
from headrace.frontend.responses.conversations import ConversationNotFound
from headrace.frontend.responses.output.ids import (
    is_conversation_id,
    is_response_id,
    response_id_of,
)
from headrace.frontend.responses.request.input_items import read_items, references
from headrace.frontend.responses.store.conversation_store import (
    ConversationItems,
    ConversationStore,
)
from headrace.frontend.responses.store.response_store import ResponseStore
from headrace.frontend.responses.store.rows import StoredResponse
from headrace.frontend.schemas.responses import Item, ResponsesRequest

MAX_REFERENCES = 256


class ResponseNotFound(ApiError):
    status = 404
    kind = "invalid_request_error"

    def __init__(self, param: str = "response_id") -> None:
        super().__init__(f"{param}: there is no such response.", param)


class RequestItems(NamedTuple):
    """The items of a request.

    earlier: those that it continues. inputs: those of its input.
    conversation_end: the number of the next item of its conversation, if it has one.
    """

    earlier: Sequence[Item]
    inputs: Sequence[Item]
    conversation_end: int | None = None


async def stored_response(
    store: ResponseStore, tenant: str, response_id: str, param: str = "response_id"
) -> StoredResponse:
    """Return a stored response. Raises ResponseNotFound, which names `param`, if there is none."""
    stored = await store.get(response_id, tenant) if is_response_id(response_id) else None
    if stored is None:
        raise ResponseNotFound(param)
    return stored


async def gather_items(
    store: ResponseStore,
    conversations: ConversationStore,
    tenant: str,
    request: ResponsesRequest,
    response_id: str,
) -> RequestItems:
    """Return the items of a request, and note those that are left out.

    response_id: of the response, which the ids of its items hold.
    Raises ApiError, which names the field, if an item is invalid or missing.
    """
    earlier: Sequence[Item] = ()
    conversation_end = None
    if request.previous_response_id is not None:
        if request.conversation is not None:
            raise BadRequest(
                "conversation: not together with previous_response_id.", "conversation"
            )
        earlier = await _previous(store, tenant, request.previous_response_id)
    elif request.conversation is not None:
        earlier, conversation_end = await conversation_items(
            conversations, tenant, request.conversation
        )
    if request.input is None and not earlier:
        raise InvalidBody("body.input: this field is missing.", "body.input")
    if not (request.input or earlier):
        raise BadRequest("input: must not be empty.", "input")
    is_long = isinstance(request.input, list) and len(request.input) > MANY_PARTS
    referenced = await _referenced(
        store, tenant, await run_in_worker_thread(lambda: references(request.input), is_long)
    )
    inputs, ignored = await run_in_worker_thread(
        lambda: read_items(request.input, response_id, referenced), is_long
    )
    ignore_parts(ignored)
    return RequestItems(earlier, inputs, conversation_end)


async def conversation_items(
    conversations: ConversationStore, tenant: str, conversation_id: str, end: int | None = None
) -> ConversationItems:
    """Return the items of the conversation that a request continues.

    end: only items with smaller numbers are returned, if it is given.
    Raises ConversationNotFound if there is none.
    """
    is_id = is_conversation_id(conversation_id)
    stored = await conversations.items(conversation_id, tenant, end) if is_id else None
    if stored is None:
        raise ConversationNotFound("conversation")
    return stored


async def _previous(store: ResponseStore, tenant: str, response_id: str) -> Sequence[Item]:
    stored = await stored_response(store, tenant, response_id, "previous_response_id")
    if stored.is_active:
        raise BadRequest(
            "previous_response_id: this response is not finished.", "previous_response_id"
        )
    return await store.conversation(response_id, tenant)


async def _referenced(
    store: ResponseStore, tenant: str, item_ids: Sequence[str]
) -> dict[str, Item]:
    """Return the stored items among these ids."""
    if len(item_ids) > MAX_REFERENCES:
        raise BadRequest(f"input: holds more than {MAX_REFERENCES} references.", "input")
    wanted_ids = set(item_ids)
    found: dict[str, Item] = {}
    for response_id in {response_id_of(item_id) for item_id in wanted_ids} - {None}:
        stored = await store.get(response_id or "", tenant)
        if stored is not None:
            items = [*stored.inputs, *stored.body["output"]]
            found |= {item["id"]: item for item in items if item["id"] in wanted_ids}
    return found
