"""LoRA adapters in the run directory: copies of their files, and the list of those that are served.

The copies are what workers read: all run the same adapter whenever they start, whatever has become
of the folder that it came from. Each loading has an id of its own, so that nothing that is known
of one, as cached prefixes, is ever taken for the other's.
"""

import json
import secrets
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from headrace.protocol.common.atomic_write import write_atomically
from headrace.protocol.state import AdapterState

# The calls: to workers, and to frontends.
ADD, REMOVE = "add_adapter", "remove_adapter"
AWAIT_SHOWN, AWAIT_UNUSED = "await_adapter_shown", "await_adapter_unused"
# What an operator asks of the coordinator.
LOAD, UNLOAD = "load_adapter", "unload_adapter"

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_CONFIG_BYTES = 1024 * 1024
_FOLDER, _LIST = "adapters", "adapters.json"


class AdapterUnusable(Exception):
    """The text is fit to be shown to an operator. is_missing: there is no adapter at all."""

    def __init__(self, reason: str, is_missing: bool = False) -> None:
        super().__init__(reason)
        self.is_missing = is_missing


class ServedAdapter(BaseModel):
    """An adapter of a group, under a name that requests use.

    root: what it is, without telling where it lies on this machine.
    is_leaving: it takes no new requests, and is unloaded when those that it has are over.
    call_id: of the call that has loaded it; "" if it came with the start.
    """

    model_config = ConfigDict(frozen=True)

    group: str
    name: str
    adapter_id: str
    root: str
    is_leaving: bool = False
    call_id: str = ""

    @property
    def state(self) -> AdapterState:
        """As frontends see it."""
        return AdapterState(self.name, self.adapter_id, self.root, self.is_leaving)


_SERVED = TypeAdapter(tuple[ServedAdapter, ...])


def adapter_folder(run_dir: Path, adapter_id: str) -> Path:
    """Where the files of an adapter are kept."""
    return run_dir / _FOLDER / adapter_id


def keep_adapter(source: Path, run_dir: Path) -> str:
    """Copy an adapter into the run directory; its id, which is new.

    AdapterUnusable if there is none, or it is in no format that is read. What is in the files is
    not looked at.
    """
    size = sum(_size(source, name) for name in (CONFIG, WEIGHTS))
    if size > shutil.disk_usage(run_dir).free // 2:  # others write there, too
        raise AdapterUnusable("there is no room for a copy of it")
    adapter_id = secrets.token_hex(8)
    folder = adapter_folder(run_dir, adapter_id)
    try:
        folder.mkdir(mode=0o700, parents=True)
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(source / name, folder / name)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise AdapterUnusable(f"it could not be copied: {error.strerror}") from error
    return adapter_id


def forget_adapter(run_dir: Path, adapter_id: str) -> None:
    """Delete what is kept of it."""
    shutil.rmtree(adapter_folder(run_dir, adapter_id), ignore_errors=True)


def forget_all_adapters(run_dir: Path) -> None:
    """As if there had never been any."""
    shutil.rmtree(run_dir / _FOLDER, ignore_errors=True)
    (run_dir / _LIST).unlink(missing_ok=True)


def read_served(run_dir: Path) -> tuple[ServedAdapter, ...]:
    """The adapters that are served; none if nothing has been written."""
    try:
        return _SERVED.validate_json((run_dir / _LIST).read_bytes())
    except (OSError, ValidationError):
        return ()


def write_served(run_dir: Path, served: Iterable[ServedAdapter]) -> None:
    """Replace the list, at once. OSError if that is not possible."""
    write_atomically(run_dir / _LIST, json.dumps([each.model_dump() for each in served]))


def _size(source: Path, name: str) -> int:
    """Of a file, in bytes. AdapterUnusable if it is none that can be read."""
    try:
        status = (source / name).stat()
    except (OSError, ValueError) as error:
        if name == CONFIG:
            raise AdapterUnusable(f"no {CONFIG} is there", is_missing=True) from error
        if (source / "adapter_model.bin").exists():
            reason = f"its weights are pickled; only {WEIGHTS} is read"
            raise AdapterUnusable(reason) from error
        raise AdapterUnusable(f"no {WEIGHTS} is there", is_missing=True) from error
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
        raise AdapterUnusable(f"{name} is no file")
    if name == CONFIG and status.st_size > MAX_CONFIG_BYTES:
        raise AdapterUnusable(f"{CONFIG} is larger than {MAX_CONFIG_BYTES} bytes")
    return status.st_size
