"""The frontend process: Hypercorn on the inherited socket, and the pool's client."""

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import hypercorn.asyncio
import hypercorn.config
from quart import Quart

from headrace.frontend.abortable import Abortable
from headrace.frontend.access.key_file_watch import KeyFileWatch
from headrace.frontend.access.key_table import KeyTable
from headrace.frontend.adapters import AdapterUse
from headrace.frontend.admin.frontend_calls import frontend_call_handlers
from headrace.frontend.app import create_app
from headrace.frontend.audio.decoders import AudioDecoders
from headrace.frontend.chat.detection.formats import log_found, resolve_formats
from headrace.frontend.critical_task import spawn_critical
from headrace.frontend.metrics import Metrics
from headrace.frontend.pool.client import PoolClient
from headrace.frontend.process import connection
from headrace.frontend.process.admission import AddressCounts, ConnectionGate
from headrace.frontend.process.drain import Drain
from headrace.frontend.process.listener import ConnectionCounts, SharedLoop
from headrace.frontend.process.status_report import report
from headrace.frontend.process.tls import certificate_of
from headrace.frontend.schemas.limits import set_limits
from headrace.frontend.structured.checker_pool import CheckerPool
from headrace.frontend.structured.grammar_cache import GrammarCache
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.common.host.limits import available_cpus
from headrace.protocol.common.process import become_child
from headrace.protocol.common.sd_notify import Notifier
from headrace.protocol.config import PoolConfig
from headrace.protocol.logs.set_up import HTTP_LOGGER
from headrace.protocol.network.descriptors import raise_descriptor_limit

log = logging.getLogger("headrace.frontend")

# Before the pool state is known, /health could only answer 503: connections are left to other
# frontends, or wait. A coordinator that restarts just then takes a second or two.
FIRST_STATE_S = 5.0
# Allocations that trigger a garbage collection of young objects; Python's default is 700.
YOUNG_OBJECTS = 10_000


async def serve(
    config: PoolConfig, frontend_id: str, http_fd: int, loop: SharedLoop, notifier: Notifier
) -> None:
    """Serve on the running loop until SIGTERM, then finish the requests in flight; or until SIGHUP,
    when a successor serves, and then until this frontend's clients have gone."""
    set_limits(config)  # also for work that no request begins
    stop, hand_over = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        notifier.stopping("finishing requests")
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, on_signal)
    loop.add_signal_handler(signal.SIGHUP, hand_over.set)
    tokenizers = {group.name: ModelTokenizer.load(group.text_path) for group in config.groups}
    formats = resolve_formats(config, tokenizers)
    if slot_of(frontend_id) == 0:  # each frontend finds the same
        writing = [name for name, text in tokenizers.items() if text.info.speech is None]
        log_found(config, {name: formats[name] for name in writing})
    with contextlib.closing(CheckerPool(deadline_s=config.grammar_timeout_s)) as checkers:
        drain, metrics = Drain(), Metrics(config)
        abortable, use = Abortable(), AdapterUse()
        handlers = frontend_call_handlers(abortable, use, lambda: pool.state)
        async with PoolClient(config, frontend_id, metrics.count_replay, handlers) as pool:
            grammars = GrammarCache(checkers)
            keys = await _watched_keys(config)
            recordings = _recordings(config, tokenizers)
            app = create_app(
                config,
                tokenizers,
                pool,
                metrics,
                grammars,
                drain=drain,
                abortable=abortable,
                adapter_use=use,
                formats=formats,
                keys=keys,
                recordings=recordings,
            )
            spawn_critical(report(notifier, loop, pool))
            _spare_collections()
            await pool.wait_for_state(FIRST_STATE_S)
            spawn_critical(_hand_over_on_signal(loop, drain, hand_over, stop))
            if loop.certificate is not None and config.enable_ssl_refresh:
                spawn_critical(loop.certificate.watch())
            try:
                await _serve_http(app, _hypercorn_config(config, http_fd), stop, drain)
            finally:
                if recordings is not None:
                    await recordings.close()


def _recordings(
    config: PoolConfig, tokenizers: Mapping[str, ModelTokenizer]
) -> AudioDecoders | None:
    """Return the decoders of recordings; None if no model transcribes."""
    if all(each.info.speech is None for each in tokenizers.values()):
        return None
    return AudioDecoders(config.audio_decoders, cpus=available_cpus().amount // config.frontends)


async def _watched_keys(config: PoolConfig) -> KeyTable:
    """Return the table of keys, which follows the file of keys from now on."""
    table = KeyTable.of(config)
    if config.api_key_file is not None:
        watch = KeyFileWatch(table, config.api_key_file, config.run_dir)
        await watch.refresh()
        spawn_critical(watch.run())
    return table


async def _hand_over_on_signal(
    loop: SharedLoop, drain: Drain, hand_over: asyncio.Event, stop: asyncio.Event
) -> None:
    await hand_over.wait()
    log.info("handing over new connections to other frontends")
    loop.hand_over()
    await drain.hand_over_to_successor(lambda: loop.counts.held)
    stop.set()


async def _serve_http(
    app: Quart, settings: hypercorn.config.Config, stop: asyncio.Event, drain: Drain
) -> None:
    async def drained() -> None:
        """Stop Hypercorn, as the last thing: it closes the socket at once."""
        await stop.wait()
        settings.graceful_timeout = await drain.finish(settings.graceful_timeout)

    try:
        await hypercorn.asyncio.serve(app, settings, shutdown_trigger=drained)
    except asyncio.CancelledError:
        # Hypercorn ends like this when requests outlast the time to finish them.
        if not stop.is_set():
            raise
        log.warning("cut off requests: the time to finish them is over")


def _hypercorn_config(config: PoolConfig, http_fd: int) -> hypercorn.config.Config:
    settings = hypercorn.config.Config()
    settings.bind = [f"fd://{http_fd}"]
    settings.graceful_timeout = config.shutdown_timeout_s
    settings.keep_alive_timeout = config.keep_alive_s
    settings.h11_max_incomplete_size = config.max_header_bytes
    settings.h2_max_header_list_size = config.max_header_bytes
    settings.h2_max_concurrent_streams = config.h2_max_streams
    settings.keep_alive_max_requests = sys.maxsize
    settings.include_server_header = False
    settings.errorlog = logging.getLogger(HTTP_LOGGER)
    return settings


def _spare_collections() -> None:
    """Collect garbage less often, and never among what was there before the first request: streams
    make many small objects and hardly any cycles."""
    gc.collect()
    gc.freeze()
    gc.enable()  # headrace.frontend.main has disabled it
    gc.set_threshold(YOUNG_OBJECTS)


def slot_of(frontend_id: str) -> int:
    """Return the number of a frontend's slot, from an id such as "frontend-0.3"."""
    return int(frontend_id.partition("-")[2].partition(".")[0])


def _make_loop(config: PoolConfig, slot: int) -> SharedLoop:
    """Return the event loop, with what decides which connections are taken and how.

    Raises TLSError if the files of TLS are not valid.
    """
    loop = SharedLoop()
    counts = ConnectionCounts(config.run_dir / "connections", slot, config.frontends)
    try:
        addresses = AddressCounts(config.run_dir / "addresses", slot, config.frontends)
    except OSError as error:
        log.warning("connections of an address are not limited: %s", error.strerror)
        addresses = None
    loop.counts = counts
    loop.certificate = certificate_of(config)
    loop.handshake_timeout_s = config.tls_handshake_timeout_s
    has_tls = loop.certificate is not None
    loop.admission = ConnectionGate(config, counts.totals, addresses, config.frontends, not has_tls)
    return loop


def run() -> None:
    """Run a frontend as the command line says, until it ends."""
    parser = argparse.ArgumentParser(prog="headrace-frontend")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--frontend-id", required=True)
    parser.add_argument("--http-fd", type=int, required=True)
    parser.add_argument("--parent-pid", type=int, help="the launcher; none under systemd")
    args = parser.parse_args()
    config = PoolConfig.load(args.run_dir)
    become_child(args.frontend_id, args.parent_pid, config)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher decides what Ctrl-C means
    slot = slot_of(args.frontend_id)
    notifier = Notifier()
    raise_descriptor_limit(config.max_connections)
    connection.install(config)
    loop = _make_loop(config, slot)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(serve(config, args.frontend_id, args.http_fd, loop, notifier))
    log.debug("pid %d ends", os.getpid())
