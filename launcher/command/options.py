"""The options of a pool and of its groups, from flags, a file and variables of the environment.

Flags have vLLM's names where it has such flags. Values are checked by the same models with which
the processes read their configuration (protocol/config.py), so that a key means the same in both.
"""

import contextlib
import functools
import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from headrace.launcher.access.start_checks import access_notices, read_key_file
from headrace.launcher.command.autoscale_options import InvalidSizes, check_sizes
from headrace.launcher.command.config_file import read_file
from headrace.launcher.command.file_keys import read_keys
from headrace.launcher.command.flag_help import Fields, help_text
from headrace.launcher.command.flags import FLAGS, Flag, flag_of
from headrace.launcher.command.given import (
    HELP,
    BadFlag,
    Given,
    KnownFlag,
    opposite_of,
    read_mapping,
    read_words,
)
from headrace.launcher.command.group_options import GroupOptions, LoraModule, parse_size
from headrace.launcher.command.option_errors import OptionError, said, with_flags
from headrace.launcher.command.reference import (
    RefusedFlag,
    notice,
    parts,
    reference_flags,
    synonyms,
)
from headrace.launcher.command.variables import FromVariables, read_variables
from headrace.launcher.hardware import gpu_ids, why_no_gpu
from headrace.protocol.common.stored_quantization import (
    StoredQuantizationError,
    stored_quantization,
)
from headrace.protocol.config import PoolOptions
from headrace.protocol.network.tls import TLSError, server_context

__all__ = ["GroupOptions", "LoraModule", "OptionError", "Options", "parse", "parse_size"]

# Options for which vLLM reads "" as not given, and none in any case as off.
# Quantizations of the reference that are those of checkpoints.
_STORED = ("awq", "awq_marlin", "compressed-tensors", "gptq", "gptq_marlin", "mxfp4")
_PARSERS = ("reasoning_parser", "tool_call_parser")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Options:
    """What the operator wants. notices: lines for the log, about what changes nothing."""

    pool: PoolOptions
    groups: list[GroupOptions]
    run_dir: Path | None
    notices: tuple[str, ...] = ()


def option_fields() -> Fields:
    """Return the fields of all options by their keys."""
    return PoolOptions.model_fields | GroupOptions.model_fields


@functools.cache
def known_flags() -> Mapping[str, KnownFlag]:
    """Return all flags that may be given, by all their names: Headrace's and the reference's."""
    known: dict[str, KnownFlag] = {}
    for flag in reference_flags().values():
        for name in (flag.name, *flag.also):
            known[name] = KnownFlag(flag.name, flag.kind)
    known["-O"] = known["--optimization-level"]
    for own in _own_flags().values():
        for name in own.names:
            known.pop(opposite_of(name) or "", None)
            known[name] = KnownFlag(flag_of(own.key), own.kind)
    return known


def parse(argv: Sequence[str]) -> tuple[PoolOptions, list[GroupOptions], Path | None]:
    """Return the options that flags alone give, as `read_options` does."""
    options = read_options(argv, {})
    return options.pool, options.groups, options.run_dir


def read_options(argv: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Return the options of `headrace serve`: from flags, then from the file, then from variables.

    Raises OptionError if they are invalid, SystemExit(0) for --help.
    """
    _show_help(argv)
    try:
        return _read(argv, environment)
    except OptionError as error:
        raise OptionError(_as_written(str(error), argv)) from error


def _read(argv: Sequence[str], environment: Mapping[str, str]) -> Options:
    try:
        flags = read_words(argv, known_flags())
        config_file = flags.pop("--config", None)
        file = read_file(Path(str(config_file)), _known_in_files()) if config_file else None
        if file is not None:
            flags = file.flags | flags
        given, notices = _to_options(flags)
    except (BadFlag, RefusedFlag) as error:
        raise OptionError(str(error)) from error
    device = given.get("device", "auto")
    on_cpu = device == "cpu" or (device == "auto" and not gpu_ids())
    variables = read_variables(environment, on_cpu)
    return _validated(file.options if file is not None else {}, given, variables, notices)


def _validated(
    file: dict[str, Any], given: dict[str, Any], variables: FromVariables, notices: Sequence[str]
) -> Options:
    tables = file.get("group")
    whole = _table({key: value for key, value in file.items() if key != "group"}, "")
    of_group = GroupOptions.model_fields.keys()
    group_flags = {key: value for key, value in given.items() if key in of_group}
    pool_flags = {key: value for key, value in given.items() if key not in of_group}
    if tables is None:
        group_file, whole = whole.parted(of_group)
        groups = [_validate(GroupOptions, group_file.over(group_flags), variables)]
    elif group_flags:
        name = flag_of(next(iter(group_flags)))
        raise OptionError(f"{name}: belongs in a [[group]] of --config")
    else:
        groups = _groups(tables, variables)
    whole = whole.over(pool_flags)
    run_dir = whole.options.pop("run_dir", None)
    if not isinstance(run_dir, str | None):
        raise OptionError(f"{whole.names.get('run_dir', '--run-dir')}: must be text")
    pool = _validate(PoolOptions, whole, variables)
    if pool.uds is not None and {"host", "port"} & whole.options.keys():
        raise OptionError("--uds: excludes --host and --port")
    _check_extras(pool)
    _check_devices(groups)
    _check_tls(pool)
    _check_autoscaling(groups, pool.wake_on_demand, is_file=tables is not None)
    access = access_notices(pool, read_key_file(pool))
    lines = (*notices, *whole.notices, *variables.notices, *access)
    return Options(pool, groups, None if run_dir is None else Path(run_dir), lines)


@dataclass(frozen=True)
class _Table:
    """Options by their keys, and their names in errors: of the keys of a file, else their flags."""

    options: dict[str, Any]
    names: dict[str, str]
    notices: tuple[str, ...] = ()

    def over(self, flags: Mapping[str, Any]) -> "_Table":
        """Return these options with flags that replace them."""
        names = {key: name for key, name in self.names.items() if key not in flags}
        return _Table({**self.options, **flags}, names, self.notices)

    def parted(self, keys: Iterable[str]) -> tuple["_Table", "_Table"]:
        """Return the options with these keys, and the others."""
        chosen = {key: value for key, value in self.options.items() if key in keys}
        left = {key: value for key, value in self.options.items() if key not in keys}
        return _Table(chosen, self.names), _Table(left, self.names, self.notices)


def _table(table: Mapping[str, Any], prefix: str) -> _Table:
    """Return what a table of a file gives. prefix: of its keys in errors."""
    keys = option_fields().keys() | {"run_dir"}
    found = read_keys(table, keys, _own_flags(), known_flags())
    try:
        flags, notices = _to_options(read_mapping(found.flags.items(), known_flags()))
    except (BadFlag, RefusedFlag) as error:
        raise OptionError(f"{prefix}{error}") from error
    names = {key: prefix + found.written.get(key, key) for key in found.options}
    return _Table(flags | found.options, names, tuple(notices))


def _known_in_files() -> Mapping[str, KnownFlag]:
    """Return all flags by what a file may write for them: also the keys of their options."""
    keys = {f"--{flag.key.replace('_', '-')}": flag for flag in _own_flags().values()}
    own = {name: KnownFlag(flag_of(flag.key), flag.kind) for name, flag in keys.items()}
    return own | dict(known_flags())


@functools.cache
def _own_flags() -> Mapping[str, Flag]:
    return {flag_of(flag.key): flag for flags in FLAGS.values() for flag in flags}


def _show_help(argv: Sequence[str]) -> None:
    for word in argv:
        name, _, wanted = word.partition("=")
        if name in (HELP, "-h"):
            print(help_text(option_fields(), "" if wanted == "all" else wanted), end="")
            raise SystemExit(0)


def _as_written(text: str, argv: Sequence[str]) -> str:
    """Return an error with the name that the operator has written for a flag."""
    named, colon, rest = text.partition(":")
    for word in argv:
        written = word.partition("=")[0].partition(".")[0].replace("_", "-")
        flag = known_flags().get(written)
        if flag is not None and flag.name == named and written != named:
            return f"{written} ({named}){colon}{rest}"
    return text


def _to_options(given: Mapping[str, Given]) -> tuple[dict[str, Any], list[str]]:
    """Return options by their keys, and lines about flags that change nothing.

    Raises RefusedFlag for a flag of the reference that would change something.
    """
    given, others = _without_synonyms(given)
    here = ("--data-parallel-size-local", given.get("--workers"))
    others = [other for other in others if other != here]  # all replicas run on this machine
    options: dict[str, Any] = {}
    for name, value in given.items():
        key = _own_flags()[name].key
        if value in ("None", "") and _is_none_without(key) and key != "api_key_file":
            continue
        if key in _PARSERS and value in ("None", ""):
            if value == "":
                continue
            value = "none"
        options[key] = value
    lines = [line for name, value in others if (line := notice(name, value)) is not None]
    model = str(options.get("model", ".gguf"))  # the default one is such a file
    if _is_stored_so(str(options.get("quantization")), model):
        del options["quantization"]
        lines.append("--quantization changes nothing: the model says how its weights are stored")
    return options, list(dict.fromkeys(lines))


def _is_stored_so(quantization: str, model: str) -> bool:
    """Return whether the reference's name of a quantization says how a model's weights are stored.

    Of a model from the hub it is believed: loading it says the rest.
    """
    if model.endswith(".gguf"):
        return quantization == "gguf"
    return quantization in _STORED and (not Path(model).is_dir() or _is_quantized(Path(model)))


def _is_quantized(folder: Path) -> bool:
    try:
        return stored_quantization(folder) is not None
    except StoredQuantizationError:
        return True  # preparing the model says more


def _is_none_without(key: str) -> bool:
    """Return whether an option is None if it is not given, which the reference writes as text."""
    field = option_fields().get(key)
    return field is not None and field.default is None


def _without_synonyms(
    given: Mapping[str, Given],
) -> tuple[dict[str, Given], list[tuple[str, Given]]]:
    """Return the values of Headrace's own flags, and those of others."""
    own: dict[str, Given] = {}
    synonymous: dict[str, Given] = {}
    others: list[tuple[str, Given]] = []
    for flag, whole in given.items():
        if flag in _own_flags():
            own[flag] = whole
            continue
        for name, value in parts(flag, _as_object(flag, whole)):
            if name in synonyms():
                synonymous[synonyms()[name]] = value
            else:
                others.append((name, value))
    for name, value in synonymous.items():
        flag, _, key = name.partition(".")
        if not key:
            own.setdefault(flag, value)
            continue
        before = _as_object(flag, own.get(flag, {}))
        own[flag] = {key: _parsed(value), **before} if isinstance(before, dict) else before
    return own, others


def _parsed(value: Given) -> object:
    """Return what a text writes in JSON; other values, and other texts, as they are."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def _as_object(flag: str, value: Given) -> Given:
    """Return the object that a flag's text writes in JSON; other values as they are."""
    parsed = _parsed(value) if known_flags()[flag].kind == "json" else None
    return parsed if isinstance(parsed, dict) else value


def _check_autoscaling(groups: list[GroupOptions], wake_on_demand: bool, is_file: bool) -> None:
    for number, group in enumerate(groups):
        try:
            check_sizes(group, group.workers, wake_on_demand)
        except InvalidSizes as error:
            name = f"group {number}: {error.key}" if is_file else flag_of(error.key)
            text = str(error) if is_file else with_flags(str(error))
            raise OptionError(f"{name}: {text}") from error


def _check_devices(groups: Iterable[GroupOptions]) -> None:
    if not any(group.device == "cuda" and group.runs_model for group in groups):
        return
    if (reason := why_no_gpu()) is not None:
        raise OptionError(f"--device: is cuda, but there is no GPU to use: {reason}")


def _check_extras(pool: PoolOptions) -> None:
    """Check for packages that frontends would miss only at the first request that needs them."""
    is_postgresql = (pool.response_store_url or "").startswith("postgresql")
    has_servers = any(name != "demo" for name in pool.tool_server)
    for flag, is_needed, package, extra in (
        ("--response-store-url", is_postgresql, "psycopg", "postgresql"),
        ("--tool-server", has_servers, "mcp", "mcp"),
    ):
        if is_needed and importlib.util.find_spec(package) is None:
            raise OptionError(f"{flag}: needs the package {package}: install headrace[{extra}]")


def _check_tls(pool: PoolOptions) -> None:
    """Check the files of TLS, which every frontend would fail at."""
    if pool.ssl_certfile is None:
        return
    try:
        server_context(pool)
    except TLSError as error:
        raise OptionError(f"{flag_of(error.option)}: {error.reason}") from error


def _groups(tables: object, variables: FromVariables) -> list[GroupOptions]:
    if not isinstance(tables, list) or not tables or not all(isinstance(t, dict) for t in tables):
        raise OptionError("group: must be one or several [[group]] tables")
    groups = [
        _validate(GroupOptions, _table(table, f"group {number}: "), variables)
        for number, table in enumerate(tables)
    ]
    names = [group.name for group in groups]
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"group: two groups are called {name!r}")
    return groups


def _validate(model: type[Model], table: _Table, variables: FromVariables) -> Model:
    """Return checked options. Variables give what the values leave out."""
    left = variables.options.keys() & model.model_fields.keys() - table.options.keys()
    names = table.names | {key: variables.names[key] for key in left}
    values = {key: variables.options[key] for key in left} | table.options
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise OptionError(said(error, names)) from error
