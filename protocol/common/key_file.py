"""Read the file of API keys, and keep the last good one in the run directory.

[[keys]]
name = "search"
hash = "sha256:9f86d0…"     # or `key`, in clear
models = ["chat"]
limits = { requests_per_minute = 60 }
"""

import json
import os
import re
import tempfile
import tomllib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from headrace.protocol.api_keys import ApiKey, KeyLimits, KeyName, check_secret, digest_of
from headrace.protocol.engine_config import Frozen

MAX_BYTES = 8 * 1024 * 1024
MAX_KEYS = 10_000  # each request is compared with all of them
_HASH = r"^(sha256:)?[0-9A-Fa-f]{64}$"
_FIELD = re.compile("[a-z]+(?:[_-][a-z]+){0,4}")
_LIST = TypeAdapter(tuple[ApiKey, ...])


class BadKeyFile(Exception):
    """The file cannot be read, or an entry is invalid. The text is one line without secrets."""


class KeyEntry(Frozen):
    """An entry. hash: SHA-256 of the key. tenant: the name, if it is missing."""

    model_config = ConfigDict(hide_input_in_errors=True)

    name: KeyName
    key: Annotated[str | None, Field(repr=False)] = None
    hash: Annotated[str | None, Field(pattern=_HASH, repr=False)] = None
    tenant: KeyName | None = None
    admin: bool = False
    models: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    limits: KeyLimits = KeyLimits()

    def api_key(self) -> ApiKey:
        """Return the key without its secret. Raises ValueError if there is none, or two."""
        if (self.key is None) == (self.hash is None):
            raise ValueError("needs either key or hash")
        if self.key is not None:
            try:
                check_secret(self.key)
            except ValueError as error:
                raise ValueError(f"key: {error}") from error
            digest = digest_of(self.key)
        else:
            digest = (self.hash or "").removeprefix("sha256:").lower()
        return ApiKey(
            name=self.name,
            digest=digest,
            tenant=self.tenant or self.name,
            is_admin=self.admin,
            models=self.models,
            limits=self.limits,
        )


def read_bytes(path: Path) -> bytes:
    """Return a file's content. Raises BadKeyFile if it cannot be read."""
    try:
        # Not blocking: a named pipe at this path must not hold up the process.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadKeyFile(f"cannot be read: {error.strerror}") from error
    if data is None or len(data) > MAX_BYTES:
        raise BadKeyFile(f"must be a file of at most {MAX_BYTES} bytes")
    return data


def parse(data: bytes, is_json: bool) -> tuple[ApiKey, ...]:
    """Return the keys of a file. Raises BadKeyFile, naming the entry, if one is invalid."""
    keys: list[ApiKey] = []
    names: set[str] = set()
    owners: dict[str, str] = {}
    for number, entry in enumerate(_entries(data, is_json)):
        label = _label(entry, number)
        key = _key_of(entry, label)
        if key.name in names:
            raise BadKeyFile(f"{label}: another entry has the same name")
        if key.digest in owners:
            raise BadKeyFile(f"{label}: has the same key as {owners[key.digest]!r}")
        names.add(key.name)
        owners[key.digest] = key.name
        keys.append(key)
    return tuple(keys)


def read(path: Path) -> tuple[ApiKey, ...]:
    """Return the keys of a file. Raises BadKeyFile if it is invalid."""
    return parse(read_bytes(path), is_json(path))


def check_distinct(given: Collection[ApiKey], in_file: Iterable[ApiKey]) -> None:
    """Raise BadKeyFile if a key of the file is given by a flag or a variable, too.

    It would not be clear what such a key allows.
    """
    digests, names = {key.digest for key in given}, {key.name for key in given}
    for number, key in enumerate(in_file):
        if key.digest in digests or key.name in names:
            label = f"keys[{number}] ({key.name!r})"
            raise BadKeyFile(f"{label}: its key or name is also one of --api-key or --admin-key")


def is_json(path: Path) -> bool:
    """Return whether a file's name says that it is JSON; else it is TOML."""
    return path.suffix == ".json"


def save_last_good(run_dir: Path, keys: tuple[ApiKey, ...]) -> None:
    """Keep keys for frontends that start while the file is bad. Raises OSError."""
    fd, part = tempfile.mkstemp(dir=run_dir, prefix="api_keys.")  # several frontends may write
    try:
        with open(fd, "wb") as file:
            file.write(_LIST.dump_json(keys))
        os.replace(part, _last_good(run_dir))
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def load_last_good(run_dir: Path) -> tuple[ApiKey, ...]:
    """Return the keys that were kept; none if none were."""
    try:
        return _LIST.validate_json(_last_good(run_dir).read_bytes())
    except (OSError, ValidationError):
        return ()


def _last_good(run_dir: Path) -> Path:
    return run_dir / "api_keys.json"


def _entries(data: bytes, is_json: bool) -> list[Any]:
    try:
        text = data.decode("utf-8-sig")
        whole = json.loads(text) if is_json else tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise BadKeyFile("is not text in UTF-8") from error
    except (ValueError, RecursionError) as error:
        # The parsers' messages say where, and may quote a character, never a value.
        where = str(error) if isinstance(error, json.JSONDecodeError) else _place(error)
        raise BadKeyFile(f"is not {'JSON' if is_json else 'TOML'}: {where}") from error
    entries = whole.get("keys") if isinstance(whole, dict) else whole
    if not isinstance(entries, list):
        raise BadKeyFile("keys: must be a list of tables ([[keys]])")
    if isinstance(whole, dict) and (unknown := whole.keys() - {"keys"}):
        raise BadKeyFile(f"{_shown(min(unknown))}: is unknown, there are only [[keys]]")
    if len(entries) > MAX_KEYS:
        raise BadKeyFile(f"keys: must not hold more than {MAX_KEYS} entries")
    return entries


def _place(error: Exception) -> str:
    """Return where TOML is wrong, without what is there."""
    _, found, place = str(error).rpartition("(at ")
    return f"at {place.rstrip(')')}" if found else "it nests too deeply, or has too long a number"


def _shown(field: object) -> str:
    """Return the name of a field as errors show it: what does not look like one may be a key."""
    name = str(field)
    return name if isinstance(field, int) or _FIELD.fullmatch(name) else "a field"


def _label(entry: Any, number: int) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    return f"keys[{number}]" + (f" ({name[:64]!r})" if isinstance(name, str) else "")


def _key_of(entry: Any, label: str) -> ApiKey:
    try:
        return KeyEntry.model_validate(entry).api_key()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(_shown(part) for part in first["loc"])
        where = f"{label}: {field}" if field else label
        raise BadKeyFile(f"{where}: {_reason(first['type'], first['msg'])}") from error
    except ValueError as error:
        raise BadKeyFile(f"{label}: {error}") from error


def _reason(kind: str, message: str) -> str:
    known = {
        "extra_forbidden": "is unknown",
        "missing": "is missing",
        "string_pattern_mismatch": "is not of the right form",
    }
    return known.get(kind, message)
