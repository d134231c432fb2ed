"""A worker template: it has imported what workers need, and forks a worker on each order.

A fork has of a process no thread but the one that forks, and locks as they were. So the template
computes nothing: it has no thread, no ZeroMQ context, no CUDA context, and it ends if an import has
started any thread. All that differs between workers they do after the fork, as if they had been
started cold: headrace.workers.main cannot tell.

A worker must live on when its template dies, and die with the launcher. So it is forked by a
process that ends at once, and becomes a child of the launcher, which adopts orphans.
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

from headrace.protocol.common.process import become_child
from headrace.protocol.config import PoolConfig
from headrace.protocol.to_fork_server import GO, MAX_BYTES, READY, ForkWorker
from headrace.workers.errors import ModelUnsupported
from headrace.workers.process.command_line import show_command_line

log = logging.getLogger("template")

# How long a worker waits to become the launcher's child. Longer only if someone stops its parent.
_ADOPTION_S = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="headrace-template")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--orders-fd", type=int, required=True)
    parser.add_argument("--room", help="makes the command line long enough for a worker's")
    parser.add_argument("--parent-pid", type=int, required=True)
    args = parser.parse_args()
    pool = PoolConfig.load(args.run_dir)
    become_child("template", args.parent_pid, pool.log_level)
    orders = socket.socket(fileno=args.orders_fd)
    run_worker = _import_all(pool)
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        log.error("cannot fork: importing has started %d threads", threads - 1)
        sys.exit(1)
    gc.collect()
    gc.freeze()  # a collection would write to all these objects, and each worker have its own copy
    orders.send(READY)
    run_worker(_obey(orders))


def _import_all(pool: PoolConfig) -> Callable[[list[str]], None]:
    """What workers need; returns their main function. Imported late: it takes seconds, and by then
    this process has to die with its parent."""
    from headrace.workers import load_runner  # noqa: F401
    from headrace.workers.main import main
    from headrace.workers.torch_runner.loading import read_model_class

    # Each model's class is a module of its own, which imports most of transformers.
    for group in pool.groups:
        if group.engine.engine != "fake":
            with contextlib.suppress(ModelUnsupported):  # a worker will say so
                read_model_class(group.model_path)
    return main


def _obey(orders: socket.socket) -> list[str]:
    """Fork workers until the launcher is gone. Returns only in a worker, with its arguments."""
    while True:
        data, fds, _, _ = socket.recv_fds(orders, MAX_BYTES, 1)
        if not data:
            sys.exit(0)
        with socket.socket(fileno=fds[0]) as start:
            try:
                is_worker = _fork_away()
            except OSError as error:  # the launcher sees the socket closed
                log.error("cannot fork: %s", error)
                continue
            if is_worker:
                orders.close()
                order = ForkWorker.decode(data)
                _introduce(order, start)
                return order.arguments


def _fork_away() -> bool:
    """Make a process whose parent has ended; true in that process."""
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


def _introduce(order: ForkWorker, start: socket.socket) -> None:
    """Become what a cold start would be, and go on only when the launcher knows it."""
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
