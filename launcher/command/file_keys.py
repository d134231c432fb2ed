"""The keys of a TOML file: those of options, and every flag's name, with dashes or underscores."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.launcher.command.flags import Flag
from headrace.launcher.command.given import KnownFlag
from headrace.launcher.command.option_errors import OptionError


@dataclass(frozen=True)
class FileKeys:
    """What a table of a file gives.

    options: by the options' keys. written: how the file writes those keys, where that differs.
    flags: of the reference, and forms of flags that turn something off, by the file's keys.
    """

    options: dict[str, Any] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)
    flags: dict[str, Any] = field(default_factory=dict)


def read_keys(
    table: Mapping[str, Any],
    keys: Collection[str],
    own_flags: Mapping[str, Flag],
    known: Mapping[str, KnownFlag],
) -> FileKeys:
    """Return what a table gives.

    keys: of all options. own_flags: by their names. known: all flags by what may be written.

    Raises OptionError if the table gives an option twice.
    """
    found = FileKeys()
    for name, value in table.items():
        key = name.replace("-", "_")
        flag = known.get("--" + name.replace("_", "-"))
        if key not in keys and flag is not None and flag.name in own_flags:
            key = own_flags[flag.name].key
        if key not in keys and (flag is not None or key.startswith(("no_", "disable_", "enable_"))):
            found.flags[name] = value
            continue
        if key in found.options:
            raise OptionError(f"{name}: is given twice, also as {found.written.get(key, key)}")
        found.options[key] = value
        if key != name:
            found.written[key] = name
    return found
