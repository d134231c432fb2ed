"""LoRA adapters in the run directory: copies of their files, and the list of served adapters.

Workers read the copies: all run the same adapter whenever they start, even if the source folder has
changed. Each load gets an id of its own, so that cached prefixes of one are never used for another.
"""

import contextlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from headrace.protocol.common.atomic_write import write_atomically
from headrace.protocol.state import AdapterState

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_CONFIG_BYTES = 1024 * 1024
OUTSIDE = "it must lie in the folder that the server has for adapters"
_FOLDER, _LIST = "adapters", "adapters.json"


class InvalidAdapter(Exception):
    """An adapter cannot be loaded. The text is fit to be shown to an operator. is_missing: there is
    no adapter at all."""

    def __init__(self, reason: str, is_missing: bool = False) -> None:
        super().__init__(reason)
        self.is_missing = is_missing


class ServedAdapter(BaseModel):
    """An adapter of a group, under a name that requests use.

    root: its name at its source, without its location on this machine.
    is_draining: it takes no new requests, and is unloaded when the last one has ended.
    call_id: of the call that has loaded it; "" if it was loaded at the start.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    group: str
    name: str
    adapter_id: str
    root: str
    is_draining: bool = Field(default=False, alias="is_leaving")
    call_id: str = ""

    @property
    def state(self) -> AdapterState:
        """The adapter as frontends see it."""
        return AdapterState(self.name, self.adapter_id, self.root, self.is_draining)


_SERVED = TypeAdapter(tuple[ServedAdapter, ...])


def adapter_folder(run_dir: Path, adapter_id: str) -> Path:
    """Return the folder with the copy of an adapter."""
    return run_dir / _FOLDER / adapter_id


def store_adapter(source: Path, run_dir: Path, inside: Path | None = None) -> str:
    """Copy an adapter into the run directory and return its new id.

    inside: the folder in which its files must lie, whatever becomes of links meanwhile.
    Raises InvalidAdapter if there is none, or its format is not supported. The contents of the
    files are not checked.
    """
    with contextlib.ExitStack() as stack:
        files = {}
        for name in (CONFIG, WEIGHTS):
            files[name] = stack.enter_context(_open(source, name, inside))
        size = sum(os.fstat(file.fileno()).st_size for file in files.values())
        if size > shutil.disk_usage(run_dir).free // 2:  # other processes write there, too
            raise InvalidAdapter("the run directory has no room for a copy of it")
        adapter_id = secrets.token_hex(8)
        folder = adapter_folder(run_dir, adapter_id)
        try:
            folder.mkdir(mode=0o700, parents=True)
            for name, file in files.items():
                with (folder / name).open("wb") as copy:
                    shutil.copyfileobj(file, copy)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise InvalidAdapter(f"it could not be copied: {error.strerror}") from error
    return adapter_id


def delete_adapter(run_dir: Path, adapter_id: str) -> None:
    """Delete the copy of an adapter."""
    shutil.rmtree(adapter_folder(run_dir, adapter_id), ignore_errors=True)


def delete_all_adapters(run_dir: Path) -> None:
    """Delete all copies, and the list of served adapters."""
    shutil.rmtree(run_dir / _FOLDER, ignore_errors=True)
    (run_dir / _LIST).unlink(missing_ok=True)


def read_served(run_dir: Path) -> tuple[ServedAdapter, ...]:
    """Return the served adapters; none if no list has been written."""
    try:
        return _SERVED.validate_json((run_dir / _LIST).read_bytes())
    except (OSError, ValidationError):
        return ()


def write_served(run_dir: Path, served: Iterable[ServedAdapter]) -> None:
    """Replace the list atomically. Raises OSError if that is not possible."""
    text = json.dumps([each.model_dump(by_alias=True) for each in served])
    write_atomically(run_dir / _LIST, text)


def _open(source: Path, name: str, inside: Path | None) -> BinaryIO:
    """Open one of an adapter's files. Raises InvalidAdapter if it cannot be read.

    What is open is checked, not what its path led to before or leads to afterwards.
    """
    try:
        # A pipe or a device must not be waited for.
        descriptor = os.open(source / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        if name == CONFIG:
            raise InvalidAdapter(f"no {CONFIG} is there", is_missing=True) from error
        if (source / "adapter_model.bin").exists():
            reason = f"its weights are pickled; only {WEIGHTS} is read"
            raise InvalidAdapter(reason) from error
        raise InvalidAdapter(f"no {WEIGHTS} is there", is_missing=True) from error
    try:
        _check_open(descriptor, name, inside)
    except BaseException:
        os.close(descriptor)
        raise
    return open(descriptor, "rb")


def _check_open(descriptor: int, name: str, inside: Path | None) -> None:
    status = os.fstat(descriptor)
    if inside is not None:
        real = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if not real.is_relative_to(inside.resolve()):
            raise InvalidAdapter(OUTSIDE)
    if not stat.S_ISREG(status.st_mode):
        raise InvalidAdapter(f"{name} is no file")
    if name == CONFIG and status.st_size > MAX_CONFIG_BYTES:
        raise InvalidAdapter(f"{CONFIG} is larger than {MAX_CONFIG_BYTES} bytes")
