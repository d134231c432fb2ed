"""Say whose work something is: a key's, and so a tenant's."""

from dataclasses import dataclass
from typing import Protocol

from headrace.frontend.errors import ApiError
from headrace.protocol.api_keys import ApiKey


class KeyRemoved(ApiError):
    """Work that outlives its request belongs to a key that is not valid any more."""

    status = 401
    kind = "authentication_error"

    def __init__(self) -> None:
        super().__init__("The API key that started this is not valid any more.")


class KeyDirectory(Protocol):
    """The keys that are valid now."""

    def named(self, name: str) -> ApiKey | None:
        """Return the key of a name; None if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Principal:
    """Whose work something is.

    tenant: "" for what was made on a server without keys.
    key: None on a server without keys.
    """

    tenant: str = ""
    key: ApiKey | None = None

    @classmethod
    def of(cls, key: ApiKey | None) -> "Principal":
        """Return the principal of requests with a key."""
        return NOBODY if key is None else cls(key.tenant, key)

    @property
    def key_name(self) -> str:
        """The name of the key; "" without one."""
        return "" if self.key is None else self.key.name

    def may_use(self, model: str) -> bool:
        """Return whether it may use the model of a name."""
        return self.key is None or self.key.models is None or model in self.key.models


NOBODY = Principal()


def restore_principal(keys: KeyDirectory | None, tenant: str, key_name: str) -> Principal:
    """Return the principal of stored work, with its key as it is now.

    keys: None on a server without keys, where stored work runs without one.
    Raises KeyRemoved if its key is not valid any more, or belongs to another tenant now.
    """
    if keys is None or not key_name:
        return Principal(tenant)
    key = keys.named(key_name)
    if key is None or key.tenant != tenant:
        raise KeyRemoved
    return Principal(tenant, key)
