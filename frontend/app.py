"""The ASGI application: routes, middleware and what they share."""

from collections.abc import Mapping

from quart import Quart, request
from quart_schema import Info, QuartSchema

from headrace.frontend.abortable import Abortable
from headrace.frontend.access.description import SCHEMES, SECURITY
from headrace.frontend.access.key_table import KeyTable
from headrace.frontend.access.middleware import AccessMiddleware, check_routed
from headrace.frontend.adapters import AdapterUse
from headrace.frontend.anthropic_api import errors as messages_errors
from headrace.frontend.chat.detection.formats import ModelFormats
from headrace.frontend.context import HEADRACE_VERSION, Context, served_models
from headrace.frontend.files.upload import ROUTE as FILES
from headrace.frontend.files.upload import UploadConnection, request_class
from headrace.frontend.http.openapi import OpenAPI
from headrace.frontend.metrics import Metrics
from headrace.frontend.middleware import address, errors, limits, operator_code, request_scope
from headrace.frontend.middleware import full_pool as full
from headrace.frontend.middleware.access_log import AccessLog
from headrace.frontend.middleware.asgi import ASGIApp
from headrace.frontend.middleware.cors import with_cors
from headrace.frontend.middleware.cut_off import CutOffMiddleware
from headrace.frontend.middleware.response_log import ResponseLogMiddleware
from headrace.frontend.pool.interface import Pool
from headrace.frontend.process.drain import Drain
from headrace.frontend.process.patience import Patience
from headrace.frontend.rate_limits.rate_limits import RateLimits
from headrace.frontend.redaction import hide_places_of
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
from headrace.frontend.routes.pooling import any_task, classify, cohere, embeddings, scoring
from headrace.frontend.routes.speech import audio
from headrace.frontend.speech.audio_source import AudioSource
from headrace.frontend.store.kept_services import lazy_batches
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
    keys: KeyTable | None = None,
    recordings: AudioSource | None = None,
) -> Quart:
    """Return an ASGI application that serves a pool.

    tokenizers: by the groups' names. grammars: of structured outputs. drain: whether the process is
    ending. abortable, adapter_use: record requests in flight and the adapters that they use.
    formats: by the groups' names; resolved if there are none. keys: which clients may send; those
    of the configuration if there is no table. recordings: decodes them; None: none are.
    """
    hide_places_of(config)
    app = _bare_app(config)
    models_by_name = served_models(config, tokenizers, formats)
    drain = drain or Drain()
    keys = keys or KeyTable.of(config)
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
        rate_limits=RateLimits.in_folder(config.run_dir / "limits"),
        keys=None if keys.is_open else keys,
        recordings=recordings,
    )
    for served in models_by_name.values():
        if served.tokenizer.info.speech is not None:
            metrics.audio.create_series(served.group.served_names[0])
    _register(app, context)
    errors.install_error_handlers(
        app, config.max_body_bytes, {messages.PATH: messages_errors.response}
    )

    @app.before_request
    async def note_route() -> None:
        if request.url_rule is not None:
            request_scope.current().handler = request.url_rule.rule
        check_routed(keys, app, request.url_rule)
        address.reject_if_flagged()

    app.asgi_app = _in_layers(app, context, keys)  # type: ignore[method-assign, assignment]
    return app


def _bare_app(config: PoolConfig) -> Quart:
    """Return an application without routes."""
    app = Quart("headrace", static_folder=None)
    patience = Patience(config.body_timeout_s, config.min_body_rate)
    recording_bytes = audio.max_form_bytes(config)
    sizes = {
        FILES: config.file_max_bytes,
        audio.TRANSCRIPTIONS: recording_bytes,
        audio.TRANSLATIONS: recording_bytes,
    }
    app.request_class = request_class(sizes, patience)
    app.asgi_http_class = UploadConnection
    app.config["MAX_CONTENT_LENGTH"] = config.max_body_bytes
    # Connections know their slow clients; a slow one may take long for a large answer.
    app.config["RESPONSE_TIMEOUT"] = None
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
        security_schemes=SCHEMES if config.needs_key else None,  # type: ignore[arg-type]
        security=SECURITY if config.needs_key else None,
        servers=[{"url": config.root_path}] if config.root_path else None,
    )
    return app


def _in_layers(app: Quart, context: Context, keys: KeyTable) -> ASGIApp:
    """Return the application inside its middleware: the last layer below sees a request first."""
    config = context.config
    refusing = full.FullPoolMiddleware(app.asgi_app, context.pool, context.drain)
    limited = limits.LimitsMiddleware(refusing, config)
    shapes = {messages.PATH: messages_errors.body}
    guarded = AccessMiddleware(limited, keys, app, shapes, config.allowed_origins)
    of_headers = (config.max_headers, config.max_header_bytes)
    answering = CutOffMiddleware(guarded, context.drain, shapes)
    addressed = address.AddressMiddleware(answering, config.root_path, *of_headers)
    return request_scope.RequestScopeMiddleware(
        _with_optional(addressed, config),
        context.metrics,
        context.drain,
        config.strict_fields,
        AccessLog(config.access_log_except, config.root_path) if config.logs_access else None,
        writes_directly=not config.middleware,
    )


def _with_optional(app: ASGIApp, config: PoolConfig) -> ASGIApp:
    """Return the application in the layers that the operator wants around all others."""
    app = operator_code.wrap(with_cors(app, config), config.middleware)
    return ResponseLogMiddleware(app) if config.log_responses else app


def _register(app: Quart, context: Context) -> None:
    """Register all routes; admin routes only if they are enabled."""
    generating = (chat_completions, chat_batch, completions, messages, invocations, responses)
    pooling = (any_task, classify, cohere, embeddings, scoring)
    for routes in (*generating, *pooling, audio, decisions, models, status, tokenize):
        app.register_blueprint(routes.blueprint(context))
    stored = lazy_batches(context, app)
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
