"""What the `headrace` command does."""

import asyncio
import importlib.metadata
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from headrace.launcher.access import new_key
from headrace.launcher.access.secret_arguments import forget_variables, hide_arguments
from headrace.launcher.access.start_checks import check_exposure, keep_key_file
from headrace.launcher.command import units
from headrace.launcher.command.activation import check_address, passed_socket, url_of
from headrace.launcher.command.autoscale_options import resolve
from headrace.launcher.command.listener import bind_http, listen, remove_unix
from headrace.launcher.command.lora_modules import store_lora_modules
from headrace.launcher.command.middleware import check_middleware
from headrace.launcher.command.options import GroupOptions, OptionError, Options, read_options
from headrace.launcher.command.queue_shares import with_shares
from headrace.launcher.command.run_dir import ensure_temporary_folder, make_run_dir
from headrace.launcher.command.tool_parsers import check_tool_parser
from headrace.launcher.command.warnings import warnings_of
from headrace.launcher.hardware import gpu_ids
from headrace.launcher.models.prepare_model import ModelError, PrepareOptions, prepare_model
from headrace.protocol.common.adapters import delete_all_adapters
from headrace.protocol.common.host.umask import keep_files_private
from headrace.protocol.common.hub import HubOptions
from headrace.protocol.common.process_registry import Role
from headrace.protocol.common.run_files import PAUSED_GROUPS
from headrace.protocol.common.sd_notify import Notifier
from headrace.protocol.config import DEFAULT_CPU_WEIGHT, GroupConfig, PoolConfig, PoolOptions
from headrace.protocol.log_options import LogOptions
from headrace.protocol.logs.set_up import INHERITED, set_up_logging, writes_json
from headrace.protocol.logs.standard_streams import make_streams_safe
from headrace.protocol.network.descriptors import raise_descriptor_limit
from headrace.protocol.pooling import Runner

log = logging.getLogger("headrace.launcher")

_POOLING_CPU_WEIGHT = 25

USAGE = """usage: headrace COMMAND [FLAGS]

  serve [MODEL] [FLAGS]   serve a model over HTTP (headrace serve --help lists the flags)
  top [--url URL]         watch a running pool
  api-key new             make a key for clients (--name NAME, --admin)
  --version               show the version

for systemd's units, which run each process of a pool by itself (docs/systemd.md):
  prepare [MODEL] [FLAGS OF serve]
  coordinator | frontend NUMBER | worker NUMBER"""


def run_command(arguments: Sequence[str]) -> None:
    """Run the command of these arguments and end the process with its exit status."""
    make_streams_safe()
    hide_arguments()
    match list(arguments):
        case ["serve", *flags]:
            sys.exit(_serve(flags))
        case ["prepare", *flags]:
            sys.exit(_prepare(flags))
        case ["coordinator" | "frontend" | "worker" as role, *rest]:
            sys.exit(_become(role, rest))
        case ["api-key", *words]:
            sys.exit(new_key.main(words))
        case ["top", *flags]:
            # Imported late: no other command needs tables.
            from headrace.console.top import main as top

            sys.exit(top(flags))
        case ["--version" | "-v"]:
            print(f"headrace {importlib.metadata.version('headrace')}")
        case ["--help" | "-h" | "help"]:
            print(USAGE)
        case _:
            print(USAGE, file=sys.stderr)
            sys.exit(2)


def _serve(flags: list[str]) -> int:
    """Prepare the models, bind the socket and run the pool; return the exit status."""
    # Until the launcher handles signals, SIGTERM must clean up as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    run_dir: Path | None = None
    uds: Path | None = None
    notifier = Notifier()
    try:
        _choose_format(flags)
        options = read_options(flags, os.environ)
        forget_variables()
        pool = options.pool
        _set_up_log("launcher", pool)
        _tell(options)
        raise_descriptor_limit(pool.max_connections)
        with _interrupts_held():
            run_dir = make_run_dir(options.run_dir, [group.name for group in options.groups])
        ensure_temporary_folder(run_dir)
        passed = passed_socket()
        # A name in --host may take long to look up.
        with _interrupts_held() if pool.uds else nullcontext():
            listener, url = bind_http(pool) if passed is None else _use_passed(passed, pool)
            uds = pool.uds
        check_exposure(pool, listener)
        keep_files_private()  # after binding: a proxy may need the socket of --uds
        notifier.status("preparing models")
        config = _configure(run_dir, options)
        listen(listener)
        # Imported late: --help and a wrong flag need no event loop and no sockets.
        from headrace.launcher.launcher import run_launcher

        return asyncio.run(run_launcher(config, listener, url, notifier, passed is not None))
    except (OptionError, ModelError) as error:
        return _fail(error)
    except KeyboardInterrupt:
        return 130
    finally:
        if run_dir is not None:
            shutil.rmtree(run_dir, ignore_errors=True)
        if uds is not None:
            remove_unix(uds)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait: what is made within must be known to what removes it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare(flags: list[str]) -> int:
    """Write the files with which the units of a pool start; return the exit status."""
    notifier = Notifier()
    try:
        _choose_format(flags)
        options = read_options(flags, os.environ)
        forget_variables()
        _set_up_log("prepare", options.pool)
        _tell(options)
        check_address(options.pool)
        units.check_sizes(options.groups)
        keep_files_private()
        run_dir = units.runtime_dir(options.run_dir, [group.name for group in options.groups])
        units.check_private(run_dir)
        units.check_idle(run_dir)
        notifier.status("preparing models")
        # Without this file, no unit starts from a half prepared folder.
        PoolConfig.file(run_dir).unlink(missing_ok=True)
        (run_dir / PAUSED_GROUPS).unlink(missing_ok=True)
        delete_all_adapters(run_dir)
        for left in ("text", "metrics", "load"):
            shutil.rmtree(run_dir / left, ignore_errors=True)
        config = _configure(run_dir, options)
    except (OptionError, ModelError) as error:
        return _fail(error)
    workers = sum(group.workers for group in config.groups)
    _say(f"prepared {config.frontends} frontends and {workers} workers")
    return 0


def _become(role: Role, arguments: list[str]) -> int:
    """Become another process; return the exit status if that fails."""
    forget_variables()
    keep_files_private()
    try:
        units.become(role, arguments)
    except OptionError as error:
        return _fail(error)


def _use_passed(passed: socket.socket, pool: PoolOptions) -> tuple[socket.socket, str]:
    """Return the socket that systemd has bound, and its URL."""
    check_address(pool)
    return passed, url_of(passed, pool.scheme)


def _choose_format(flags: list[str]) -> None:
    """Log in JSON from the start, errors of options included, if the flags ask for that."""
    os.environ.pop(INHERITED, None)
    text = " ".join(flags).replace("=", " ").replace("_", "-")
    if "--log-format json" in text or "--logging-config.formatter json" in text:
        set_up_logging("launcher", LogOptions(log_format="json"))


def _set_up_log(name: str, pool: PoolOptions) -> None:
    try:
        set_up_logging(name, pool)
    except ValueError as error:
        raise OptionError(f"--log-config-file: {error}") from error


def _tell(options: Options) -> None:
    for line in options.notices:
        log.info("%s", line)
    for line in warnings_of(options.pool):
        log.warning("%s", line)


def _configure(run_dir: Path, options: Options) -> PoolConfig:
    """Prepare the model of each group and write the configuration that all processes read."""
    check_middleware(options.pool.middleware)
    groups = options.groups
    configs = tuple(_prepare_group(run_dir, group) for group in groups)
    names = [name for group in configs for name in group.served_names]
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"--served-model-name: {name!r} is used twice")
    config = PoolConfig(
        run_dir=run_dir, started_at=int(time.time()), groups=configs, **options.pool.model_dump()
    )
    try:
        config.metrics_dir.mkdir()
        keep_key_file(options.pool, run_dir)
        store_lora_modules(run_dir, groups, configs)
        config.save()
    except OSError as error:  # no space, say
        raise OptionError(f"--run-dir: {run_dir}: {error.strerror}") from error
    return config


def _prepare_group(run_dir: Path, group: GroupOptions) -> GroupConfig:
    check_tool_parser(group)
    engine = group.engine_config()
    options = PrepareOptions(
        text_path=run_dir / "text" / group.name,
        max_model_len=group.max_model_len,
        chat_template=group.chat_template,
        generation_config=group.generation_config,
        override_generation_config=group.override_generation_config,
        hub_options=HubOptions(group.revision, group.download_dir, group.hf_token),
        tokenizer=group.tokenizer,
        tokenizer_revision=group.tokenizer_revision,
        hf_overrides=group.hf_overrides,
        trust_remote_code=group.trust_remote_code,
        allow_pickle_weights=group.allow_pickle_weights,
        engine=engine,
    )
    try:
        prepared = prepare_model(group.model, options, progress=_say)
    except ModelError as error:
        if str(error).startswith("--"):
            raise
        where = "--model" if group.name == "default" else f"group {group.name}: model"
        raise OptionError(f"{where}: {error}") from error
    default_size = max(1, len(gpu_ids()))
    engine = engine.model_copy(update={"runner": prepared.runner, "convert": prepared.convert})
    workers, autoscaling = resolve(group, group.workers, default_size, engine.max_num_seqs)
    most = workers if autoscaling is None else autoscaling.max_workers
    return GroupConfig(
        name=group.name,
        model=group.model or prepared.served_name,
        model_path=prepared.model_path,
        text_path=prepared.text_path,
        served_names=group.served_model_name or (prepared.served_name,),
        sleep_idle_seconds=group.sleep_idle_seconds,
        sleep_idle_level=group.sleep_idle_level,
        workers=workers,
        cpu_weight=group.cpu_weight or _cpu_weight(prepared.runner),
        autoscaling=autoscaling,
        engine=with_shares(engine, group, most),
        reasoning_parser=group.reasoning_parser,
        serving=group.serving_options(),
    )


def _cpu_weight(runner: Runner) -> int:
    """Return the weight of a group whose operator gives none: texts that are embedded can wait for
    the next token of a chat."""
    return _POOLING_CPU_WEIGHT if runner == "pooling" else DEFAULT_CPU_WEIGHT


def _say(line: str) -> None:
    if writes_json():
        log.info("%s", line)
    else:
        print(f"headrace: {line}", file=sys.stderr, flush=True)


def _fail(error: Exception) -> int:
    """Say why the command ends; return its exit status."""
    if writes_json():
        log.critical("%s", error)
    else:
        print(f"headrace: error: {error}", file=sys.stderr)
    return 2
