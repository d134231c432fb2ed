"""CVE-2025-59425: how long a wrong key takes must tell nothing about the right ones.

Times cannot be asserted, but what takes them can: digests of one size are compared, by a function
that does not stop at the first difference, with those of all keys, whether one is found or not.
"""

import hashlib
import hmac
from typing import Any

import pytest
from quart import Quart

from headrace.frontend.access.key_table import KeyTable
from headrace.protocol.api_keys import unnamed_key
from tests.frontend.conftest import MAKE_APP

SECRETS = [f"key-number-{number}" for number in range(5)]


@pytest.fixture(scope="module")
def table() -> KeyTable:
    table = KeyTable([unnamed_key(secret) for secret in SECRETS[:3]])
    table.replace_file_keys([unnamed_key(secret) for secret in SECRETS[3:]])
    return table


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """What is compared, by the one function that may compare."""
    pairs: list[tuple[Any, Any]] = []
    compare = hmac.compare_digest

    def noting(first: Any, second: Any) -> bool:
        pairs.append((first, second))
        return compare(first, second)

    monkeypatch.setattr(hmac, "compare_digest", noting)
    return pairs


@pytest.mark.parametrize("sent", [*SECRETS, "key-number-", "k", "", "key-number-00", "x" * 1000])
def test_each_key_is_compared_each_time(
    table: KeyTable, compared: list[tuple[Any, Any]], sent: str
) -> None:
    found = table.find(sent.encode())
    assert (found is not None) == (sent in SECRETS)
    assert [known for known, _ in compared] == [
        hashlib.sha256(secret.encode()).digest() for secret in SECRETS
    ]
    assert {given for _, given in compared} == {hashlib.sha256(sent.encode()).digest()}


async def test_a_request_compares_no_other_way(
    make_app: MAKE_APP, compared: list[tuple[Any, Any]]
) -> None:
    app: Quart = make_app(api_keys=SECRETS[:4], admin_keys=SECRETS[4:])
    client = app.test_client()
    for secret in ("wrong", SECRETS[0], SECRETS[3], SECRETS[4]):
        compared.clear()
        await client.get("/v1/models", headers={"Authorization": f"Bearer {secret}"})
        assert len(compared) == len(SECRETS)
