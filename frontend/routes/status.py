"""GET /health, /ping, /version, /load and /metrics."""

import asyncio

from prometheus_client import CONTENT_TYPE_LATEST
from quart import Blueprint, Response
from quart_schema import document_response

from frontend.context import HEADRACE_VERSION, Context
from frontend.middleware.errors import json_response
from frontend.openapi import document_plain
from frontend.schemas.answers import ServerLoad, ServerVersion
from protocol.state import READY


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("status", __name__)

    @routes.get("/health")
    @document_plain("A worker is ready.")
    @document_plain("No worker is ready.", 503)
    async def health() -> Response:
        """200 while a worker is ready, else 503."""
        return _health(context)

    @routes.route("/ping", methods=["GET", "POST"])
    @document_plain("A worker is ready.")
    @document_plain("No worker is ready.", 503)
    async def ping() -> Response:
        """The same as /health."""
        return _health(context)

    @routes.get("/version")
    @document_response(ServerVersion)
    async def version() -> Response:
        """The server's version."""
        return json_response({"version": HEADRACE_VERSION})

    @routes.get("/load")
    @document_response(ServerLoad)
    async def load() -> Response:
        """Requests for text in flight in the whole pool."""
        in_flight = await asyncio.to_thread(context.metrics.in_flight)
        return json_response({"server_load": in_flight})

    @routes.get("/metrics")
    @document_plain("The metrics.", content_type="text/plain")
    async def metrics() -> Response:
        """The whole pool's metrics in Prometheus' text format."""
        text = await asyncio.to_thread(context.metrics.exposition)
        return Response(text, content_type=CONTENT_TYPE_LATEST)

    return routes


def _health(context: Context) -> Response:
    state = context.pool.state
    ready = state is not None and any(worker.state == READY for worker in state.workers)
    response = Response(b"", 200 if ready else 503)
    del response.headers["Content-Type"]
    return response
