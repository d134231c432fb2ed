"""Keys of two tenants, and clients that send them."""

from typing import Any

from quart.typing import TestClientProtocol as Client

from headrace.frontend.access.key_table import KeyTable
from headrace.protocol.api_keys import ApiKey, KeyLimits, digest_of

ANN, ANN_TOO, BOB = "ann-key-0123456789", "ann-too-0123456789", "bob-key-0123456789"


def api_key(secret: str, name: str, tenant: str | None = None, **changes: Any) -> ApiKey:
    limits = KeyLimits(**changes.pop("limits", {}))
    named = {"name": name, "tenant": tenant or name, "digest": digest_of(secret)}
    return ApiKey(**named, limits=limits, **changes)


def key_table(**limits: Any) -> KeyTable:
    """Two keys of ann's and one of bob's."""
    return KeyTable(
        [
            api_key(ANN, "ann", limits=limits),
            api_key(ANN_TOO, "ann-too", "ann"),
            api_key(BOB, "bob", limits=limits),
        ]
    )


class KeyClient:
    """A client that sends its key."""

    def __init__(self, client: Client, key: str) -> None:
        self._client, self._headers = client, {"Authorization": f"Bearer {key}"}

    async def open(self, path: str, method: str, **fields: Any) -> Any:
        headers = {**self._headers, **fields.pop("headers", {})}
        return await self._client.open(path, method=method, headers=headers, **fields)

    async def get(self, path: str, **fields: Any) -> Any:
        return await self.open(path, "GET", **fields)

    async def post(self, path: str, **fields: Any) -> Any:
        return await self.open(path, "POST", **fields)

    async def delete(self, path: str, **fields: Any) -> Any:
        return await self.open(path, "DELETE", **fields)
