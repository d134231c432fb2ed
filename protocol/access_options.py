"""Options of access to the server."""

from typing import Any

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from headrace.protocol.api_keys import ApiKey, unnamed_key
from headrace.protocol.engine_config import AbsolutePath, Frozen

ADMIN_KEYS = "admin_keys"


class AccessOptions(Frozen):
    """Options of access to the server. Keys are hashed as soon as they are read."""

    model_config = ConfigDict(hide_input_in_errors=True)

    api_keys: tuple[ApiKey, ...] = Field(
        (), description="keys of which clients must send one; better in HEADRACE_API_KEY or a file"
    )
    admin_keys: tuple[ApiKey, ...] = Field(
        (),
        description="keys that open the operators' routes, too; better in HEADRACE_ADMIN_KEY",
    )
    api_key_file: AbsolutePath | None = Field(
        None,
        description=(
            "file of keys with their names, limits and models (docs/operating.md); read again "
            "when it changes"
        ),
    )
    public_metrics: bool = Field(False, description="serve /metrics and /version without a key")
    insecure: bool = Field(
        False, description="listen on an address that others reach although there is no key"
    )
    enable_admin: bool = Field(
        False,
        description=(
            "serve the routes that act on the pool (/sleep, /pause, ...), to admin keys; on a "
            "server without keys to every client that reaches it"
        ),
    )
    share_prefix_cache: bool = Field(
        False,
        description=(
            "let the prompts of different tenants share cached blocks, so that a tenant can tell "
            "by their times what others have sent"
        ),
    )

    @property
    def needs_key(self) -> bool:
        """Whether clients must send a key."""
        return bool(self.api_keys or self.admin_keys or self.api_key_file is not None)

    @field_validator("api_keys", "admin_keys", mode="before")
    @classmethod
    def _hash(cls, value: Any, info: ValidationInfo) -> Any:
        given = [value] if isinstance(value, str) else value
        if not isinstance(given, list | tuple):
            return value
        is_admin = info.field_name == ADMIN_KEYS
        distinct = dict.fromkeys(each for each in given if isinstance(each, str))
        hashed = {secret: unnamed_key(secret, is_admin) for secret in distinct}
        others = [each for each in given if not isinstance(each, str)]
        return (*hashed.values(), *others)

    @field_validator("admin_keys")
    @classmethod
    def _differ(cls, value: tuple[ApiKey, ...], info: ValidationInfo) -> tuple[ApiKey, ...]:
        users = {key.digest for key in info.data.get("api_keys", ())}
        if any(key.digest in users for key in value):
            raise ValueError("must not be one of api_keys")
        return value
