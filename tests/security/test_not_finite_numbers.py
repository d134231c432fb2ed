"""Numbers that are not finite, or that no machine holds, are refused in every field."""

from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.security.request_fields import JSON, request_fields, url_of

VALUES = ("NaN", "-Infinity", "1e999", "1" + "0" * 400, "1" + "0" * 5000, '"NaN"', '"1e999"')


@pytest.fixture
def client(make_app: MAKE_APP) -> Client:
    return make_app(enable_admin=True).test_client()


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value[:12])
async def test_cve_2026_54235_numbers_of_bodies(client: Client, pool: FakePool, value: str) -> None:
    """CVE-2026-54235 (GHSA-7h4p-rffg-7823): NaN or Infinity as a temperature."""
    fields = [
        each for each in await request_fields(client) if each.types & {"number", "integer", "any"}
    ]
    assert len(fields) > 150
    assert len({each.route for each in fields}) > 9
    for field in fields:
        if value.startswith('"') and field.types & {"string", "any"}:
            continue
        if value == VALUES[3] and "any" in field.types:
            continue  # a number like others, where it means nothing
        response = await client.post(url_of(field.route), data=field.body(value), headers=JSON)
        body = await response.get_json()
        if str(field.path[0]) in response.headers.get("X-Headrace-Ignored-Fields", ""):
            pool.requests.clear()  # a number like others, where the field has no meaning
            continue
        assert response.status_code == 400, (field, body)
        assert str(field.path[0]) in body["error"]["message"], (field, body)
    assert not pool.requests


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "1" + "0" * 400, "-1", "x", "٣"])
async def test_cve_2026_54235_numbers_of_queries_and_headers(client: Client, value: str) -> None:
    """CVE-2026-54235 (GHSA-7h4p-rffg-7823): the same in queries and headers."""
    queries = {
        ("POST", "/sleep"): ("timeout", "level"),
        ("POST", "/pause"): ("timeout",),
        ("POST", "/v1/load_lora_adapter"): ("timeout",),
        ("GET", "/v1/files"): ("limit",),
        ("GET", "/v1/batches"): ("limit",),
    }
    for (method, route), names in queries.items():
        for name in names:
            asked: dict[str, Any] = {"query_string": {name: value}}
            if route == "/v1/load_lora_adapter":
                asked["json"] = {"lora_name": "a", "lora_path": "/nowhere"}
            response = await client.open(route, method=method, **asked)
            body = await response.get_json()
            assert response.status_code == 400, (route, name, body)
            assert name in body["error"]["message"]
    header = {"X-Request-Timeout-Ms": value.encode("ascii", "replace").decode()}
    asked = {"prompt": "Hi"}
    response = await client.post("/v1/completions", json=asked, headers=header)
    assert response.status_code == 400
    assert (await response.get_json())["error"]["param"] == "X-Request-Timeout-Ms"
