"""The coordinator process: sockets and a clock around the registry."""

import argparse
import logging
import os
from pathlib import Path

from headrace.coordinator.assemble import assemble_coordinator
from headrace.coordinator.unit_processes import UnitProcesses
from headrace.protocol.common.process import become_child
from headrace.protocol.common.process_registry import COORDINATOR
from headrace.protocol.common.sd_notify import Notifier
from headrace.protocol.config import PoolConfig

log = logging.getLogger("headrace.coordinator")


def main() -> None:
    parser = argparse.ArgumentParser(prog="headrace-coordinator")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--parent-pid", type=int, help="the launcher; none under systemd")
    args = parser.parse_args()
    config = PoolConfig.load(args.run_dir)
    become_child(COORDINATOR, args.parent_pid, config)
    log.debug("pid %d", os.getpid())
    units = UnitProcesses(config) if args.parent_pid is None else None
    assemble_coordinator(config, Notifier(), units).run()


if __name__ == "__main__":
    main()
