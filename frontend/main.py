"""The frontend process: Hypercorn on the inherited socket, the pool's client beside it."""

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
from pathlib import Path

import hypercorn.asyncio
import hypercorn.config
from quart import Quart

from headrace.frontend.abortable import Abortable
from headrace.frontend.adapters import AdapterNews, AdapterUse
from headrace.frontend.app import create_app
from headrace.frontend.critical_task import create_vital_task
from headrace.frontend.metrics import Metrics
from headrace.frontend.pool.client import PoolClient
from headrace.frontend.process import connection
from headrace.frontend.process.drain import Drain
from headrace.frontend.process.listener import ConnectionCounts, SharedLoop
from headrace.frontend.process.status_report import report
from headrace.frontend.structured.checkers import Checkers
from headrace.frontend.structured.grammars import Grammars
from headrace.frontend.text.model import TextModel
from headrace.protocol.common.adapters import AWAIT_SHOWN, AWAIT_UNUSED
from headrace.protocol.common.process import become_child
from headrace.protocol.common.sd_notify import Notifier
from headrace.protocol.config import PoolConfig

log = logging.getLogger("frontend")

# Longer than the idle times of common proxies and client pools, so that they close first.
KEEP_ALIVE_S = 75.0
# Before the pool's state is known, /health could only say 503: connections are left to the other
# frontends, or wait. A coordinator that restarts just then takes a second or two.
FIRST_NEWS_S = 5.0
# Objects made since the last look for garbage before the next one; Python's own number is 700.
YOUNG_OBJECTS = 10_000
LARGEST_HEADERS_BYTES = 64 * 1024


async def serve(
    config: PoolConfig, frontend_id: str, http_fd: int, loop: SharedLoop, notifier: Notifier
) -> None:
    """Serve on the running loop until SIGTERM, then finish the requests in flight; or until SIGHUP,
    when another serves in this one's place, and this one's clients have gone."""
    stop, leave = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        notifier.stopping("finishing requests")
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, on_signal)
    loop.add_signal_handler(signal.SIGHUP, leave.set)
    texts = {group.name: TextModel.load(group.text_path) for group in config.groups}
    with contextlib.closing(Checkers()) as checkers:
        drain, metrics = Drain(), Metrics(config)
        async with PoolClient(config, frontend_id, metrics.count_replay) as pool:
            abortable = Abortable()
            pool.methods["abort_requests"] = lambda told: abortable.abort(
                told["request_ids"], told["group"]
            )
            use = AdapterUse()
            news = AdapterNews(lambda: pool.state, use)
            pool.methods[AWAIT_SHOWN] = news.await_shown
            pool.methods[AWAIT_UNUSED] = news.await_unused
            grammars = Grammars(checkers)
            app = create_app(config, texts, pool, metrics, grammars, drain, abortable, use)
            create_vital_task(report(notifier, loop, pool))
            _spare_collections()
            await pool.first_news(FIRST_NEWS_S)
            create_vital_task(_leave_to_others(loop, drain, leave, stop))
            await _serve_http(app, _hypercorn_config(config, http_fd), stop, drain)


async def _leave_to_others(
    loop: SharedLoop, drain: Drain, leave: asyncio.Event, stop: asyncio.Event
) -> None:
    await leave.wait()
    log.info("leaves its connections to others")
    loop.hand_over()
    await drain.leave_to_others(lambda: loop.counts.held)
    stop.set()


async def _serve_http(
    app: Quart, settings: hypercorn.config.Config, stop: asyncio.Event, drain: Drain
) -> None:
    async def drained() -> None:
        """Hypercorn closes the socket first thing, so it is told last."""
        await stop.wait()
        settings.graceful_timeout = await drain.finish(settings.graceful_timeout)

    connection.install()
    try:
        await hypercorn.asyncio.serve(app, settings, shutdown_trigger=drained)
    except asyncio.CancelledError:
        # So Hypercorn ends when requests outlast the time that they have to finish.
        if not stop.is_set():
            raise
        log.warning("requests were cut off: the time to finish them is over")


def _hypercorn_config(config: PoolConfig, http_fd: int) -> hypercorn.config.Config:
    settings = hypercorn.config.Config()
    settings.bind = [f"fd://{http_fd}"]
    settings.graceful_timeout = config.shutdown_timeout_s
    settings.keep_alive_timeout = KEEP_ALIVE_S
    settings.h11_max_incomplete_size = LARGEST_HEADERS_BYTES
    settings.include_server_header = False
    settings.loglevel = "WARNING"
    return settings


def _spare_collections() -> None:
    """Streams make many small objects and hardly any cycles: garbage is looked for less often, and
    never among what was there before the first request."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def _raise_descriptor_limit() -> None:
    """Each connection is a descriptor, and the usual soft limit is only 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    parser = argparse.ArgumentParser(prog="headrace-frontend")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--frontend-id", required=True)
    parser.add_argument("--http-fd", type=int, required=True)
    parser.add_argument("--parent-pid", type=int, help="the launcher; none under systemd")
    args = parser.parse_args()
    config = PoolConfig.load(args.run_dir)
    become_child(args.frontend_id, args.parent_pid, config.log_level)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher decides what Ctrl-C means
    place = int(args.frontend_id.partition("-")[2].partition(".")[0])
    notifier = Notifier()
    _raise_descriptor_limit()
    loop = SharedLoop()
    loop.counts = ConnectionCounts(config.run_dir / "connections", place, config.frontends)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(serve(config, args.frontend_id, args.http_fd, loop, notifier))
    log.debug("pid %d ends", os.getpid())


if __name__ == "__main__":
    main()
