"""The routes of /v1/conversations: items that responses continue and add to."""

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from headrace.frontend.http.openapi import document_plain
from headrace.frontend.http.parsing import read_body
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.middleware.request_scope import current_tenant
from headrace.frontend.responses.output.pagination import paginate, requested_page
from headrace.frontend.schemas.conversations import (
    ConversationItemsRequest,
    ConversationRequest,
    ConversationUpdateRequest,
)
from headrace.frontend.schemas.response_bodies import Conversation, ErrorAnswer
from headrace.frontend.store.kept_services import LazyResponses

_ONE = "/v1/conversations/<conversation_id>"


def add_conversation_routes(routes: Blueprint, entry: LazyResponses) -> None:
    """Add the routes. entry: has the store, which responses share."""
    _add_routes_of_conversations(routes, entry)
    _add_routes_of_items(routes, entry)


def _add_routes_of_conversations(routes: Blueprint, entry: LazyResponses) -> None:
    @routes.post("/v1/conversations")
    @document_request(ConversationRequest)
    @document_response(Conversation)
    @document_response(ErrorAnswer, 400)
    async def create_conversation() -> Response:
        """Create a conversation, with its first items if they are given."""
        body = await read_body(ConversationRequest)
        return json_response(
            await (await entry.service()).conversations.create(current_tenant(), body)
        )

    @routes.get(_ONE)
    @document_plain("The conversation.", content_type="application/json")
    @document_response(ErrorAnswer, 404)
    async def get_conversation(conversation_id: str) -> Response:
        """Return a conversation, without its items."""
        return json_response(
            await (await entry.service()).conversations.get(current_tenant(), conversation_id)
        )

    @routes.post(_ONE)
    @document_request(ConversationUpdateRequest)
    @document_plain("The conversation.", content_type="application/json")
    @document_response(ErrorAnswer, 404)
    async def update_conversation(conversation_id: str) -> Response:
        """Replace the metadata of a conversation."""
        body = await read_body(ConversationUpdateRequest)
        conversations = (await entry.service()).conversations
        return json_response(
            await conversations.set_metadata(current_tenant(), conversation_id, body.metadata)
        )

    @routes.delete(_ONE)
    @document_plain("It is deleted.", content_type="application/json")
    @document_response(ErrorAnswer, 404)
    async def delete_conversation(conversation_id: str) -> Response:
        """Delete a conversation and its items; responses that added to it stay."""
        return json_response(
            await (await entry.service()).conversations.delete(current_tenant(), conversation_id)
        )


def _add_routes_of_items(routes: Blueprint, entry: LazyResponses) -> None:
    @routes.get(f"{_ONE}/items")
    @document_plain("The items.", content_type="application/json")
    @document_response(ErrorAnswer, 404)
    async def conversation_items(conversation_id: str) -> Response:
        """List the items of a conversation."""
        items = await (await entry.service()).conversations.items(current_tenant(), conversation_id)
        return json_response(requested_page(items))

    @routes.post(f"{_ONE}/items")
    @document_request(ConversationItemsRequest)
    @document_plain("The items that were added.", content_type="application/json")
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 404)
    async def add_conversation_items(conversation_id: str) -> Response:
        """Add items at the end of a conversation."""
        body = await read_body(ConversationItemsRequest)
        conversations = (await entry.service()).conversations
        added = await conversations.append(current_tenant(), conversation_id, body.items)
        return json_response(paginate(added, len(added), None))

    @routes.get(f"{_ONE}/items/<item_id>")
    @document_plain("The item.", content_type="application/json")
    @document_response(ErrorAnswer, 404)
    async def conversation_item(conversation_id: str, item_id: str) -> Response:
        """Return an item of a conversation."""
        conversations = (await entry.service()).conversations
        return json_response(await conversations.item(current_tenant(), conversation_id, item_id))

    @routes.delete(f"{_ONE}/items/<item_id>")
    @document_plain("The conversation.", content_type="application/json")
    @document_response(ErrorAnswer, 404)
    async def delete_conversation_item(conversation_id: str, item_id: str) -> Response:
        """Delete an item of a conversation, and return the conversation."""
        conversations = (await entry.service()).conversations
        return json_response(
            await conversations.delete_item(current_tenant(), conversation_id, item_id)
        )
