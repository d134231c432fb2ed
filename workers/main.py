"""The worker process: sockets and heartbeats in this thread, the engine in another."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from headrace.protocol.common.process import become_child
from headrace.protocol.common.sd_notify import Notifier
from headrace.protocol.common.shared_weights import memory_file_name
from headrace.protocol.config import PoolConfig
from headrace.workers.native.shared_file import SharedFile
from headrace.workers.process.assemble import assemble_worker
from headrace.workers.process.cpu_share import take_share


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a worker. arguments: instead of the command line's, in a forked process."""
    parser = argparse.ArgumentParser(prog="headrace-worker")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--worker-id", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--parent-pid", type=int, help="the launcher; none under systemd")
    parser.add_argument("--workers-on-host", type=int, help="with itself (the pool's)")
    parser.add_argument("--shared-weights", type=Path, help="a memory file of the launcher's")
    parser.add_argument(
        "--freed-bytes", type=int, default=0, help="memory that a worker will soon give back"
    )
    args = parser.parse_args(arguments)
    pool = PoolConfig.load(args.run_dir)
    become_child(args.worker_id, args.parent_pid, pool)
    notifier = Notifier()
    # The two threads alternate; the default of 5 ms would delay tokens for as long.
    sys.setswitchinterval(0.0005)
    workers_on_host = args.workers_on_host or sum(each.workers for each in pool.groups)
    group = pool.group(args.group)
    take_share(pool, group)
    shared_file = None
    if args.shared_weights is not None:
        shared_file = SharedFile(args.shared_weights, memory_file_name(group.name))
    worker = assemble_worker(
        args.worker_id, group, pool, notifier, workers_on_host, shared_file, args.freed_bytes
    )
    status = worker.run()
    # The engine's thread may be in a forward pass: it ends with the process.
    os._exit(status)


if __name__ == "__main__":
    main()
