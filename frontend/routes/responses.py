"""The Responses API: POST /v1/responses, and the stored responses."""

from collections.abc import AsyncIterator

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from headrace.frontend.context import Context
from headrace.frontend.errors import BadRequest
from headrace.frontend.http.openapi import document_plain
from headrace.frontend.http.parsing import read_body
from headrace.frontend.http.query import query_boolean, query_number
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.middleware.in_flight import count_in_flight
from headrace.frontend.responses.output.pagination import requested_page
from headrace.frontend.routes.conversations import add_conversation_routes
from headrace.frontend.schemas.response_bodies import ErrorAnswer, InputTokenCount
from headrace.frontend.schemas.responses import CompactionRequest, ResponsesRequest
from headrace.frontend.store.kept_services import lazy_responses
from headrace.frontend.streaming import HEADERS


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("responses", __name__)
    entry = lazy_responses(context)
    routes.before_app_serving(entry.start)
    routes.after_app_serving(entry.stop)

    @routes.post("/v1/responses")
    @document_request(ResponsesRequest)
    @document_plain("The response, or its events.", content_type="application/json")
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 404)
    async def create() -> Response:
        """Answer a conversation, in one piece, as a stream of events, or in the background."""
        count_in_flight(context)
        body = await read_body(ResponsesRequest)
        created = await (await entry.service()).create(body)
        return json_response(created) if isinstance(created, dict) else _stream(created)

    @routes.post("/v1/responses/input_tokens")
    @document_request(ResponsesRequest)
    @document_response(InputTokenCount)
    @document_response(ErrorAnswer, 400)
    async def count_input_tokens() -> Response:
        """Count the tokens that the input of a response is to the model."""
        body = await read_body(ResponsesRequest)
        return json_response(await (await entry.service()).count_input_tokens(body))

    @routes.post("/v1/responses/compact")
    @document_request(CompactionRequest)
    @document_plain("The compacted conversation.", content_type="application/json")
    @document_response(ErrorAnswer, 400)
    async def compact() -> Response:
        """Compact a conversation to its user's messages and a summary by the model."""
        count_in_flight(context)
        body = await read_body(CompactionRequest)
        return json_response(await (await entry.service()).compact(body))

    @routes.get("/v1/responses/<response_id>")
    @document_plain("The response, or its events.", content_type="application/json")
    @document_response(ErrorAnswer, 404)
    async def get(response_id: str) -> Response:
        """Return a stored response; with stream=true its events after starting_after."""
        service = await entry.service()
        after = query_number("starting_after", -1, 0, 2**53)
        if query_boolean("stream"):
            return _stream(await service.events(response_id, after + 1))
        if after >= 0:
            raise BadRequest("starting_after needs stream to be true.", "starting_after")
        return json_response(await service.get(response_id))

    @routes.delete("/v1/responses/<response_id>")
    @document_plain("It is deleted.", content_type="application/json")
    @document_response(ErrorAnswer, 404)
    async def delete(response_id: str) -> Response:
        """Delete a stored response, and end it if it runs."""
        return json_response(await (await entry.service()).delete(response_id))

    @routes.post("/v1/responses/<response_id>/cancel")
    @document_plain("The response as it is now.", content_type="application/json")
    @document_response(ErrorAnswer, 404)
    async def cancel(response_id: str) -> Response:
        """End a background response; one that has ended already stays as it is."""
        return json_response(await (await entry.service()).cancel(response_id))

    @routes.get("/v1/responses/<response_id>/input_items")
    @document_plain("The items.", content_type="application/json")
    @document_response(ErrorAnswer, 404)
    async def input_items(response_id: str) -> Response:
        """List the input items of a response."""
        items = await (await entry.service()).input_items(response_id)
        return json_response(requested_page(items))

    add_conversation_routes(routes, entry)
    return routes


def _stream(events: AsyncIterator[str]) -> Response:
    response = Response(
        _encoded(events), headers=HEADERS, content_type="text/event-stream; charset=utf-8"
    )
    response.timeout = None  # a long output may take any time
    return response


async def _encoded(events: AsyncIterator[str]) -> AsyncIterator[bytes]:
    async for text in events:
        yield text.encode()
