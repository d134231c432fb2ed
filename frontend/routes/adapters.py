"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

from quart import Blueprint, Response
from quart_schema import document_querystring, document_request, document_response

from headrace.frontend.access.required_access import OperatorBlueprint
from headrace.frontend.admin.pool_results import check_result, read_query, target_of, worker_reports
from headrace.frontend.context import Context
from headrace.frontend.errors import BadRequest, NotFound, shortened
from headrace.frontend.http.openapi import document_plain
from headrace.frontend.http.parsing import read_body
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.schemas.admin import AdapterQuery, LoadAdapterRequest, UnloadAdapterRequest
from headrace.frontend.schemas.response_bodies import ErrorAnswer
from headrace.protocol.calls import UNFIT, CallTarget, LoadAdapter, UnloadAdapter
from headrace.protocol.common.adapter_source import locate_adapter
from headrace.protocol.common.adapters import InvalidAdapter, store_adapter
from headrace.protocol.to_frontend import PoolResult


def blueprint(context: Context) -> Blueprint:
    routes = OperatorBlueprint("adapters", __name__)

    @routes.post("/v1/load_lora_adapter")
    @document_querystring(AdapterQuery)
    @document_request(LoadAdapterRequest)
    @document_plain("It is served; with ?verbose as JSON, and what came of it at each worker.")
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 404)
    async def load() -> Response:
        """Serve an adapter under a name; answered when all workers have it and all frontends
        show it."""
        query, body = read_query(AdapterQuery), await read_body(LoadAdapterRequest)
        target = _target(context, query)
        _check_enabled(context, target)
        lora_dir, run_dir = context.config.lora_dir, context.config.run_dir

        def copy() -> tuple[str, str | None]:
            folder, hub_id = locate_adapter(body.lora_path, lora_dir)
            return store_adapter(Path(folder), run_dir, lora_dir), hub_id

        with _translate_adapter_errors():
            adapter_id, hub_id = await asyncio.to_thread(copy)
        call = LoadAdapter(
            name=body.lora_name,
            adapter_id=adapter_id,
            root=hub_id or body.lora_name,
            in_place=body.load_inplace,
        )
        result = await context.pool.call(call, target, query.timeout)
        param = "lora_path" if result.kind == UNFIT else "lora_name"
        check_result(result, _describe(body.lora_name), param)
        return _success_response(body.lora_name, "added", result, query)

    @routes.post("/v1/unload_lora_adapter")
    @document_querystring(AdapterQuery)
    @document_request(UnloadAdapterRequest)
    @document_plain("It is gone; with ?verbose as JSON, and what came of it at each worker.")
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 404)
    @document_response(ErrorAnswer, 408)
    async def unload() -> Response:
        """Serve it no more; answered when the last request that uses it has ended."""
        query, body = read_query(AdapterQuery), await read_body(UnloadAdapterRequest)
        call, target = UnloadAdapter(body.lora_name), target_of(context, query)
        _check_enabled(context, target)
        result = await context.pool.call(call, target, query.timeout)
        check_result(result, _describe(body.lora_name), "lora_name")
        return _success_response(body.lora_name, "removed", result, query)

    return routes


def _target(context: Context, query: AdapterQuery) -> CallTarget:
    """Return the target: the group of the named model, or the only group with adapters enabled."""
    if query.model is not None:
        return target_of(context, query)
    groups = [group.name for group in context.config.groups if group.engine.enable_lora]
    if len(groups) > 1:
        raise BadRequest("model: say which, there are several.", "model")
    return CallTarget(groups[0] if groups else context.config.groups[0].name)


def _check_enabled(context: Context, target: CallTarget) -> None:
    """Raise BadRequest if the groups take no adapters: wherever they lie, that is what is wrong."""
    config = context.config
    groups = (config.group(target.group),) if target.group else config.groups
    if not any(group.engine.enable_lora for group in groups):
        raise BadRequest("LoRA adapters are off: start the server with --enable-lora.", "lora_name")


@contextlib.contextmanager
def _translate_adapter_errors() -> Iterator[None]:
    """Raise InvalidAdapter as an ApiError about lora_path."""
    try:
        yield
    except InvalidAdapter as error:
        kind = NotFound if error.is_missing else BadRequest
        raise kind(f"lora_path: {error}.", "lora_path") from error


def _describe(name: str) -> str:
    return f"The lora adapter {shortened(name)!r}"


def _success_response(name: str, done: str, result: PoolResult, query: AdapterQuery) -> Response:
    text = f"Success: LoRA adapter {shortened(name)!r} {done} successfully."
    if query.verbose:
        return json_response({"message": text, "workers": worker_reports(result.answers)})
    return Response(text, 200, mimetype="text/plain")
