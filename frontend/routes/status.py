"""GET /health, /ping, /livez, /version, /load and /metrics."""

import asyncio

from prometheus_client import CONTENT_TYPE_LATEST
from quart import Blueprint, Response, request
from quart_schema import document_response

from headrace.frontend.access.required_access import public
from headrace.frontend.admin.health import health_body, is_ready, load_body
from headrace.frontend.context import HEADRACE_VERSION, Context
from headrace.frontend.http.openapi import document_plain
from headrace.frontend.metrics.pool_info import AdapterInfo
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.schemas.response_bodies import ServerLoad, ServerVersion


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("status", __name__)
    adapter_info = AdapterInfo(context.config, lambda: context.pool.state)
    _add_health(routes, context)

    @routes.get("/version")
    @public(lambda: context.config.public_metrics)
    @document_response(ServerVersion)
    async def version() -> Response:
        """Return the server's version."""
        return json_response({"version": HEADRACE_VERSION})

    @routes.get("/load")
    @document_response(ServerLoad)
    async def load() -> Response:
        """Count the generation requests in flight in the whole pool.

        With ?verbose also those of each group and each worker.
        """
        in_flight = await asyncio.to_thread(context.metrics.in_flight)
        if _is_verbose():
            live = context.pool.live_load()
            # Of requests that begin or end just now, none may run beside a load of 0.
            in_flight = max(in_flight, await asyncio.to_thread(context.metrics.in_flight))
            return json_response(load_body(context.config, context.pool.state, in_flight, live))
        return json_response({"server_load": in_flight})

    @routes.get("/metrics")
    @public(lambda: context.config.public_metrics)
    @document_plain("The metrics.", content_type="text/plain")
    async def metrics() -> Response:
        """Return the whole pool's metrics in Prometheus' text format.

        With a key that is not an admin's, of all tenants only its own.
        """
        key = context.principal.key
        tenant = None if key is None or key.is_admin else key.tenant
        text = await asyncio.to_thread(context.metrics.exposition, adapter_info, tenant=tenant)
        return Response(text, content_type=CONTENT_TYPE_LATEST)

    return routes


def _add_health(routes: Blueprint, context: Context) -> None:
    @routes.get("/health")
    @public(lambda: not _is_verbose())
    @document_plain("A worker is ready.")
    @document_plain("No worker is ready, or the server is stopping.", 503)
    async def health() -> Response:
        """Answer 200 while a worker is ready, else 503.

        With ?verbose the body names groups and workers.
        """
        return _health(context, _is_verbose())

    @routes.route("/ping", methods=["GET", "POST"])
    @public()
    @document_plain("A worker is ready.")
    @document_plain("No worker is ready, or the server is stopping.", 503)
    async def ping() -> Response:
        """Answer as /health does."""
        return _health(context, verbose=False)

    @routes.get("/livez")
    @public()
    @document_plain("This process answers.")
    async def livez() -> Response:
        """Answer 200, even if no worker is ready: without an answer the server may be restarted."""
        return _empty(200)


def _health(context: Context, verbose: bool) -> Response:
    stopping, state = context.drain.has_begun, context.pool.state
    status = 200 if is_ready(context.config, state) and not stopping else 503
    if verbose:
        return json_response(health_body(context.config, state, stopping), status)
    return _empty(status)


def _empty(status: int) -> Response:
    response = Response(b"", status)
    del response.headers["Content-Type"]
    return response


def _is_verbose() -> bool:
    """Return whether the query has ?verbose, with or without a true value."""
    return request.args.get("verbose", "0").lower() not in ("0", "false", "no")
