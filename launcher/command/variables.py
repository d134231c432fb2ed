"""Variables of the environment that set options: the reference's, and keys."""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from headrace.launcher.command.flags import flag_of
from headrace.launcher.command.option_errors import OptionError

_FILE = Path(__file__).with_name("reference_variables.toml")
_PREFIX = "VLLM_"
_ANY = "VLLM_*"
_GIB_ON_CPU = "GiB on a CPU"
_OFF = ("", "0", "false", "no")
# Headrace's own that set options, which come before those of the reference.
_OWN = {"HEADRACE_API_KEY": "api_keys", "HEADRACE_ADMIN_KEY": "admin_keys"}


@dataclass(frozen=True)
class Variable:
    """What becomes of a variable. option: that it sets. unit: of its number."""

    treatment: Literal["done", "accepted", "refused", "usual"]
    says: str = ""
    option: str = ""
    unit: str = ""


@dataclass
class FromVariables:
    """Options, and the variables that gave them, by the options' keys; and lines for the log."""

    options: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


@functools.cache
def variables() -> Mapping[str, Variable]:
    """Return what becomes of each variable; "VLLM_*" stands for those that have no entry."""
    tables = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    found = {name: Variable("done", **facts) for name, facts in tables["done"].items()}
    for treatment in ("refused", "accepted"):
        for table in tables[treatment]:
            found |= {name: Variable(treatment, table["says"]) for name in table["names"]}
    return found | {name: Variable("usual") for name in tables["usual"]["names"]}


def read_variables(environment: Mapping[str, str], on_cpu: bool) -> FromVariables:
    """Return the options that variables give. on_cpu: whether models run on CPUs.

    Raises OptionError if one cannot be honoured.
    """
    read = FromVariables()
    for name in sorted(name for name in environment if name.startswith(_PREFIX)):
        variable = variables().get(name, variables()[_ANY])
        value = environment[name].strip()
        if variable.treatment == "refused":
            if value.lower() not in _OFF:
                raise OptionError(f"{name}: {variable.says}")
        elif variable.treatment == "accepted":
            read.notices.append(f"{name} changes nothing: {variable.says}")
        elif variable.unit == _GIB_ON_CPU and not on_cpu:
            read.notices.append(f"{name} changes nothing: the model runs on a GPU")
        elif value and (variable.unit != _GIB_ON_CPU or value != "0"):
            read.options[variable.option] = _value(name, value, variable.unit)
            read.names[variable.option] = name
            read.notices.append(f"{name} sets {flag_of(variable.option)}, unless that is given")
    for name, option in _OWN.items():
        if value := environment.get(name, "").strip():
            if option in read.options:
                read.notices.append(f"{read.names[option]} changes nothing: {name} is set")
            read.options[option], read.names[option] = value, name
    return read


def _value(name: str, value: str, unit: str) -> str | bool:
    if unit == "switch":
        return value.lower() not in _OFF
    if not unit:
        return value
    if not value.isdecimal():
        raise OptionError(f"{name}: must be a whole number of GiB: {value[:100]!r}")
    return f"{value}GiB"
