"""Single processes of a pool, as systemd units run them.

`headrace prepare` writes the files that a launcher would; `headrace coordinator`, `frontend N` and
`worker N` take a replica slot of that pool and become the process. systemd starts and restarts
them.
"""

import argparse
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from headrace.launcher.access.start_checks import check_exposure
from headrace.launcher.command.activation import FIRST_FD, passed_socket
from headrace.launcher.command.flags import flag_of
from headrace.launcher.command.options import GroupOptions, OptionError
from headrace.launcher.command.run_dir import check_length, why_unsafe
from headrace.launcher.hardware import worker_environment
from headrace.protocol.common.process_registry import (
    COORDINATOR,
    FRONTEND,
    WORKER,
    ProcessRegistry,
    Role,
    SlotTaken,
)
from headrace.protocol.config import PoolConfig

ROLES = (COORDINATOR, FRONTEND, WORKER)


def runtime_dir(chosen: Path | None, groups: Collection[str] = ()) -> Path:
    """Return the run directory of all units: --run-dir, or the unit's RuntimeDirectory=.

    groups: the names of those whose sockets must fit.
    """
    given = chosen or os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if not given:
        raise OptionError("--run-dir: is needed where RUNTIME_DIRECTORY is not set")
    folder = Path(given).absolute()
    if not folder.is_dir():
        raise OptionError(f"--run-dir: {folder}: no such folder")
    check_length(folder, groups)
    return folder


def check_private(folder: Path) -> None:
    """Raise OptionError if others than the owner can enter a run directory."""
    # systemd's may be a link, which only root can have made.
    if (reason := why_unsafe(folder.resolve())) is not None:
        raise OptionError(f"--run-dir: {folder}: {reason}")


def check_sizes(groups: Sequence[GroupOptions]) -> None:
    """Raise OptionError if a group's size may change.

    There is a unit for each worker, and no process of the pool starts or stops units.
    """
    for group in groups:
        for key in ("min_workers", "max_workers"):
            if getattr(group, key) is not None:
                raise OptionError(f"{flag_of(key)}: systemd's units say how many workers there are")


def check_idle(run_dir: Path) -> None:
    """Raise OptionError if processes of the pool run."""
    if not ProcessRegistry(run_dir).is_empty():
        raise OptionError("prepare: the pool runs; stop its processes first")


def become(role: Role, arguments: Sequence[str]) -> NoReturn:
    """Become one process of the pool that has been prepared. Raises OptionError on failure."""
    run_dir, number = _parse(role, arguments)
    config = _load(run_dir)
    check_private(run_dir)
    # Before anything else can fail: none of the variables must reach the process.
    listener = passed_socket()
    if role == COORDINATOR:
        _enter(config, role, COORDINATOR)
        _exec(config, "headrace.coordinator.main", [], {})
    if role == WORKER:
        _become_worker(config, number)
    if number >= config.frontends:
        raise OptionError(f"frontend {number}: the pool has {config.frontends} (--frontends)")
    if listener is None:
        raise OptionError(f"frontend {number}: no socket was passed: see Sockets= of its unit")
    check_exposure(config, listener)
    listener.set_inheritable(True)
    name = _enter(config, role, f"frontend-{number}")
    environment = {"TOKENIZERS_PARALLELISM": "false"}
    flags = ["--frontend-id", name, "--http-fd", str(FIRST_FD)]
    _exec(config, "headrace.frontend.main", flags, environment)


def _become_worker(config: PoolConfig, number: int) -> NoReturn:
    """Become a worker. Units number the workers of all groups in the order of the groups."""
    slots = [(group, index) for group in config.groups for index in range(group.workers)]
    if number >= len(slots):
        raise OptionError(f"worker {number}: the pool has {len(slots)} (--workers)")
    group, index = slots[number]
    name = _enter(config, WORKER, f"{group.name}-{index}")
    environment = worker_environment(number, len(slots), group.engine.threads)
    _exec(
        config, "headrace.workers.main", ["--worker-id", name, "--group", group.name], environment
    )


def _parse(role: Role, arguments: Sequence[str]) -> tuple[Path, int]:
    parser = _Parser(prog=f"headrace {role}", allow_abbrev=False)
    if role != COORDINATOR:
        parser.add_argument("number", type=int, help="its number, from 0")
    parser.add_argument(
        "--run-dir", type=Path, help="folder that was prepared ($RUNTIME_DIRECTORY)"
    )
    args = vars(parser.parse_args(arguments))
    number: int = args.get("number", 0)
    if number < 0:
        raise OptionError(f"{role} {number}: they are numbered from 0")
    return runtime_dir(args["run_dir"]), number


def _load(run_dir: Path) -> PoolConfig:
    try:
        return PoolConfig.load(run_dir)
    except FileNotFoundError as error:
        raise OptionError(f"{run_dir}: nothing is prepared there (headrace prepare)") from error
    except OSError as error:
        raise OptionError(f"{run_dir}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise OptionError(f"{run_dir}: was prepared by another version: prepare it anew") from error


def _enter(config: PoolConfig, role: Role, slot: str) -> str:
    """Take a slot for the rest of this process's life; return the process id."""
    try:
        name, before = ProcessRegistry(config.run_dir).register(role, slot)
    except SlotTaken as error:
        raise OptionError(f"{slot}: runs already") from error
    except OSError as error:
        raise OptionError(f"{config.run_dir}: cannot be written to: {error.strerror}") from error
    if before is not None:
        # Imported late: the command line needs no metrics otherwise.
        from headrace.protocol.common.clean_up import remove_leftovers

        remove_leftovers(config, before)
    return name


def _exec(
    config: PoolConfig, module: str, flags: list[str], environment: dict[str, str]
) -> NoReturn:
    """Execute a module in this process, which keeps its pid (known to systemd), slot and socket."""
    shared = {"PROMETHEUS_MULTIPROC_DIR": str(config.metrics_dir)}
    command = [sys.executable, "-P", "-m", module, "--run-dir", str(config.run_dir), *flags]
    os.execve(sys.executable, command, {**os.environ, **shared, **environment})


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise OptionError(message)
