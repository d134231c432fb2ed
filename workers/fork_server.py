"""The fork server: it has imported what workers need, and forks a worker on each order.

A forked process has only the forking thread, and locks as they were. So the fork server computes
nothing: it has no other thread, no ZeroMQ context and no CUDA context, and it ends if an import has
started a thread. Workers do everything else after the fork, as in a cold start:
headrace.workers.main cannot tell the difference.

A worker must survive its fork server, and die with the launcher. So it is forked by a process that
ends at once, and becomes a child of the launcher, which adopts orphans.
"""

import argparse
import contextlib
import gc
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from headrace.protocol.common.host.cache_folder import cache_folder
from headrace.protocol.common.process import become_child
from headrace.protocol.common.process_registry import FORK_SERVER
from headrace.protocol.config import PoolConfig
from headrace.protocol.to_fork_server import GO, MAX_BYTES, READY, ForkWorker
from headrace.workers.deferred_torch import defer_torch_modules
from headrace.workers.process.command_line import show_command_line

log = logging.getLogger("headrace.fork_server")

# How long a worker waits to become the launcher's child; longer only if its parent is stopped.
_ADOPTION_S = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="headrace-fork-server")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--orders-fd", type=int, required=True)
    parser.add_argument("--room", help="makes the command line long enough for a worker's")
    parser.add_argument("--parent-pid", type=int, required=True)
    args = parser.parse_args()
    pool = PoolConfig.load(args.run_dir)
    become_child(FORK_SERVER, args.parent_pid, pool)
    orders = socket.socket(fileno=args.orders_fd)
    gc.disable()  # collections take a seventh of the time of imports, which leave no garbage
    run_worker = _import_all(pool)
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        log.error("cannot fork: importing has started %d threads", threads - 1)
        sys.exit(1)
    gc.collect()
    gc.enable()
    gc.freeze()  # a collection would copy the pages of all these objects in each worker
    orders.send(READY)
    run_worker(_serve_orders(orders))


def _import_all(pool: PoolConfig) -> Callable[[list[str]], None]:
    """Import what workers need; return their main function. Imported late: it takes seconds, and
    this process must die with its parent from the start."""
    defer_torch_modules()
    from headrace.workers.main import main
    from headrace.workers.program_cache import load_cached  # noqa: F401
    from headrace.workers.program_cache.cached_programs import ProgramCache

    folder = cache_folder()
    for group in pool.groups:
        engine = group.engine
        if engine.runs_model and not ProgramCache(folder, group.model_path, engine).has_program:
            _import_transformers(group.model_path)
    return main


def _import_transformers(model_path: Path) -> None:
    """Import what compiles a model, and its class: that is in a module that imports most of
    transformers."""
    from headrace.workers import load_runner  # noqa: F401
    from headrace.workers.torch_runner.loading import read_model_class

    with contextlib.suppress(Exception):  # a worker will report it, whatever it is
        read_model_class(model_path)


def _serve_orders(orders: socket.socket) -> list[str]:
    """Fork workers until the launcher is gone. Returns only in a worker, with its arguments."""
    while True:
        data, fds, _, _ = socket.recv_fds(orders, MAX_BYTES, 1)
        if not data:
            sys.exit(0)
        with socket.socket(fileno=fds[0]) as start:
            try:
                is_worker = _fork_orphan()
            except OSError as error:  # the launcher sees the socket closed
                log.error("cannot fork: %s", error)
                continue
            if is_worker:
                orders.close()
                order = ForkWorker.decode(data)
                _become_worker(order, start)
                return order.arguments


def _fork_orphan() -> bool:
    """Fork a process whose parent ends; return true in that process."""
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        return False
    parent = os.getpid()
    try:
        if os.fork():
            os._exit(0)
    except OSError:
        os._exit(1)
    deadline = time.monotonic() + _ADOPTION_S
    while os.getppid() == parent:
        if time.monotonic() > deadline:
            os._exit(1)
        time.sleep(0.0005)
    return True


def _become_worker(order: ForkWorker, start: socket.socket) -> None:
    """Set up what a cold start would have; continue only when the launcher knows this worker."""
    os.setsid()
    os.environ.update(order.environment)
    show_command_line(order.command_line)
    try:
        start.send(str(os.getpid()).encode())
        known = start.recv(len(GO)) == GO
    except OSError:
        known = False
    if not known:
        os._exit(1)


if __name__ == "__main__":
    main()
