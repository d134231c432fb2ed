"""/v1/batches: files of requests that are run in the background."""

from quart import Blueprint, Response, request
from quart_schema import document_request, document_response

from headrace.frontend.context import Context
from headrace.frontend.http.openapi import document_plain
from headrace.frontend.http.parsing import read_body
from headrace.frontend.http.query import query_number
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.routes.files import WARNING_HEADER, list_body
from headrace.frontend.schemas.batches import BatchRequest
from headrace.frontend.schemas.response_bodies import ErrorAnswer
from headrace.frontend.store.kept_services import LazyBatches

ROUTE = "/v1/batches"


def blueprint(context: Context, entry: LazyBatches) -> Blueprint:
    routes = Blueprint("batches", __name__)
    routes.before_app_serving(entry.start)
    routes.after_app_serving(entry.stop)

    @routes.post(ROUTE)
    @document_request(BatchRequest)
    @document_plain("The batch.", content_type="application/json")
    @document_response(ErrorAnswer, 400)
    async def create() -> Response:
        """Run all requests of a file, behind those of clients that wait."""
        body = await read_body(BatchRequest)
        service = await entry.service()
        batch = await service.create(body)
        headers = {WARNING_HEADER: service.warning} if service.warning else {}
        return json_response(batch.body(), 200, headers)

    @routes.get(ROUTE)
    @document_plain("The batches.", content_type="application/json")
    async def get_all() -> Response:
        """List batches, the newest first."""
        limit = query_number("limit", 20, 1, 100)
        page = await (await entry.service()).page(limit, request.args.get("after"))
        data = [each.body() for each in page.batches]
        return json_response(list_body(data, page.has_more))

    @routes.get(f"{ROUTE}/<batch_id>")
    @document_plain("The batch.", content_type="application/json")
    @document_response(ErrorAnswer, 404)
    async def get(batch_id: str) -> Response:
        """Return a batch, with how much of it is done."""
        return json_response((await (await entry.service()).get(batch_id)).body())

    @routes.post(f"{ROUTE}/<batch_id>/cancel")
    @document_plain("The batch.", content_type="application/json")
    @document_response(ErrorAnswer, 404)
    @document_response(ErrorAnswer, 409)
    async def cancel(batch_id: str) -> Response:
        """End a batch; what is done of it is kept."""
        return json_response((await (await entry.service()).cancel(batch_id)).body())

    return routes
