"""The Responses API: POST /v1/responses, and the stored responses."""

from collections.abc import AsyncIterator
from typing import Any

from quart import Blueprint, Response, request
from quart_schema import document_request, document_response

from headrace.frontend.context import Context
from headrace.frontend.errors import BadRequest, shortened
from headrace.frontend.http.openapi import document_plain
from headrace.frontend.http.parsing import read_body
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.middleware.in_flight import count_in_flight
from headrace.frontend.responses.lazy_service import LazyResponsesService
from headrace.frontend.responses.output.pagination import paginate
from headrace.frontend.schemas.response_bodies import ErrorAnswer
from headrace.frontend.schemas.responses import ResponsesRequest
from headrace.frontend.streaming import HEADERS

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("responses", __name__)
    entry = LazyResponsesService(context)
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

    @routes.get("/v1/responses/<response_id>")
    @document_plain("The response, or its events.", content_type="application/json")
    @document_response(ErrorAnswer, 404)
    async def get(response_id: str) -> Response:
        """Return a stored response; with stream=true its events after starting_after."""
        service = await entry.service()
        after = _number("starting_after", -1, 0, 2**53)
        if _boolean("stream"):
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
        order = request.args.get("order", "desc")
        if order not in ("asc", "desc"):
            raise BadRequest("order: must be asc or desc.", "order")
        limit = _number("limit", 20, 1, 100)
        items = await (await entry.service()).input_items(response_id)
        if order == "desc":
            items = items[::-1]
        return json_response(paginate(items, limit, request.args.get("after")))

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


def _boolean(name: str) -> bool:
    text = request.args.get(name, "false")
    value = _BOOLEANS.get(text.lower())
    if value is None:
        raise BadRequest(f"{name}: must be true or false, not {shortened(text)!r}.", name)
    return value


def _number(name: str, default: int, lowest: int, highest: int) -> int:
    text: Any = request.args.get(name)
    if text is None:
        return default
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else -1
    if not lowest <= number <= highest:
        raise BadRequest(f"{name}: must be an integer from {lowest} to {highest}.", name)
    return number
