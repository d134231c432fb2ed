"""The ASGI application: routes, middleware and what they share."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from quart import Quart, request
from quart_schema import Info, QuartSchema

from headrace.frontend.abortable import Abortable
from headrace.frontend.adapters import AdapterUse
from headrace.frontend.anthropic_api import errors as messages_errors
from headrace.frontend.batches.lazy_service import LazyBatchService
from headrace.frontend.chat.detection.formats import ModelFormats
from headrace.frontend.context import HEADRACE_VERSION, Context, served_models
from headrace.frontend.files.upload import UploadConnection, request_class
from headrace.frontend.http.openapi import OpenAPI
from headrace.frontend.metrics import Metrics
from headrace.frontend.middleware import address, errors, limits, request_scope
from headrace.frontend.middleware import full_pool as full
from headrace.frontend.pool.interface import Pool
from headrace.frontend.process.drain import Drain
from headrace.frontend.redaction import hide_places
from headrace.frontend.routes import (
    aborting,
    adapters,
    batches,
    chat_batch,
    chat_completions,
    collective_rpc,
    completions,
    decisions,
    docs,
    files,
    invocations,
    messages,
    models,
    pausing,
    prefix_cache,
    profiling,
    responses,
    scaling,
    server_info,
    sleeping,
    status,
    tokenize,
)
from headrace.frontend.structured.grammar_cache import GrammarCache
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.config import PoolConfig


def create_app(
    config: PoolConfig,
    tokenizers: Mapping[str, ModelTokenizer],
    pool: Pool,
    metrics: Metrics,
    grammars: GrammarCache,
    drain: Drain | None = None,
    abortable: Abortable | None = None,
    adapter_use: AdapterUse | None = None,
    formats: Mapping[str, ModelFormats] | None = None,
) -> Quart:
    """Return an ASGI application that serves a pool.

    tokenizers: by the groups' names. grammars: of structured outputs. drain: whether the process is
    ending. abortable, adapter_use: record requests in flight and the adapters that they use.
    formats: by the groups' names; resolved if there are none.
    """
    hide_places(_places(config))
    app = Quart("headrace", static_folder=None)
    app.request_class = request_class(config.file_max_bytes)
    app.asgi_http_class = UploadConnection
    app.config["MAX_CONTENT_LENGTH"] = config.max_body_bytes
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False  # its redirect would be built from the Host header
    QuartSchema(
        app,
        openapi_path=None if config.disable_docs else "/openapi.json",
        info=Info(title="Headrace", version=HEADRACE_VERSION),
        redoc_ui_path=None,
        scalar_ui_path=None,
        openapi_provider_class=OpenAPI,
        swagger_ui_path=None,
    )
    models_by_name = served_models(config, tokenizers, formats)
    drain = drain or Drain()
    context = Context(
        config,
        models_by_name,
        pool,
        metrics,
        config.started_at,
        grammars,
        drain,
        abortable or Abortable(),
        adapter_use or AdapterUse(),
    )
    _register(app, context)
    errors.install_error_handlers(
        app, config.max_body_bytes, {messages.PATH: messages_errors.response}
    )

    @app.before_request
    async def note_route() -> None:
        if request.url_rule is not None:
            request_scope.current().handler = request.url_rule.rule
        address.reject_if_flagged()

    refusing = full.FullPoolMiddleware(app.asgi_app, pool, drain)
    limited = limits.LimitsMiddleware(refusing, config)
    of_headers = (config.max_headers, config.max_header_bytes)
    addressed = address.AddressMiddleware(limited, config.root_path, *of_headers)
    wrapped = request_scope.RequestScopeMiddleware(addressed, metrics, drain, config.strict_fields)
    app.asgi_app = wrapped  # type: ignore[method-assign, assignment]
    return app


def _places(config: PoolConfig) -> Iterator[Path]:
    """Yield the paths of this machine that the pool uses."""
    yield from (config.run_dir, config.files)
    for group in config.groups:
        yield from (group.model_path, group.text_path)
    yield from filter(None, (config.lora_dir, config.profile_dir, config.uds))
    if config.response_store.startswith("sqlite"):
        yield Path(config.response_store.partition(":///")[2])


def _register(app: Quart, context: Context) -> None:
    """Register all routes; admin routes only if they are enabled."""
    generating = (chat_completions, chat_batch, completions, messages, invocations, responses)
    for routes in (*generating, decisions, models, status, tokenize):
        app.register_blueprint(routes.blueprint(context))
    stored = LazyBatchService(context, app)
    for kept in (files, batches):
        app.register_blueprint(kept.blueprint(context, stored))
    admin = (
        sleeping,
        scaling,
        prefix_cache,
        server_info,
        profiling,
        collective_rpc,
        pausing,
        aborting,
        adapters,
    )
    for routes in admin if context.config.enable_admin else ():
        app.register_blueprint(routes.blueprint(context))
    if not context.config.disable_docs:
        app.register_blueprint(docs.blueprint())
