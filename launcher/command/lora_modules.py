"""The LoRA adapters that a pool serves from the start."""

from collections.abc import Iterable
from pathlib import Path

from headrace.launcher.command.options import GroupOptions, LoraModule, OptionError
from headrace.protocol.common.adapter_source import locate_adapter
from headrace.protocol.common.adapters import (
    InvalidAdapter,
    ServedAdapter,
    store_adapter,
    write_served,
)
from headrace.protocol.config import GroupConfig


def store_lora_modules(
    run_dir: Path, groups: Iterable[GroupOptions], configs: Iterable[GroupConfig]
) -> None:
    """Copy the adapters of all groups into the run directory, where workers find them.

    Raises OptionError if an adapter cannot be copied, or its name is taken.
    """
    taken = {name for config in configs for name in config.served_names}
    served = []
    for group in groups:
        for module in group.lora_modules:
            if module.name in taken:
                raise OptionError(f"--lora-modules: the name {module.name!r} is used twice")
            taken.add(module.name)
            served.append(_store(run_dir, group.name, module))
    write_served(run_dir, served)


def _store(run_dir: Path, group: str, module: LoraModule) -> ServedAdapter:
    given = Path(module.path).expanduser()
    try:
        if given.is_dir():
            folder, hub_id = given, None
        else:
            folder, hub_id = locate_adapter(module.path, None)
        adapter_id = store_adapter(folder, run_dir)
    except InvalidAdapter as error:
        raise OptionError(f"--lora-modules: {module.name}: {module.path}: {error}") from error
    return ServedAdapter(
        group=group, name=module.name, adapter_id=adapter_id, root=hub_id or module.name
    )
