"""What a page of another site can do in the browser of somebody who reaches the server.

Without a preflight, which no site passes unless --allowed-origins names it, a page may send a body
only as plain text or as a form.
"""

import json

import pytest
from quart.typing import TestClientProtocol as Client

from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.security.request_fields import BODIES, url_of

SITE = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
FORMS = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
KEY = "user-key-0123456789"


@pytest.mark.parametrize("form", FORMS)
async def test_pages_cannot_send_json(make_app: MAKE_APP, pool: FakePool, form: str) -> None:
    client = make_app(enable_admin=True).test_client()
    headers = {**SITE, **({"Content-Type": form} if form else {})}
    for route, body in BODIES.items():
        answer = await client.post(url_of(route), data=json.dumps(body), headers=headers)
        text = await answer.get_data(as_text=True)
        assert answer.status_code == 403, (route, text)
        assert "--allowed-origins" in text, (route, text)
    assert not pool.requests


@pytest.mark.parametrize("path", ["/sleep", "/pause", "/reset_prefix_cache", "/v1/files"])
async def test_pages_cannot_send_what_needs_no_json(make_app: MAKE_APP, path: str) -> None:
    client = make_app(enable_admin=True).test_client()
    for site in ("cross-site", "same-site"):
        answer = await client.post(path, headers={**SITE, "Sec-Fetch-Site": site})
        assert answer.status_code == 403
    own = await client.post(path, headers={"Sec-Fetch-Site": "same-origin"})
    assert own.status_code != 403
    script = await client.post(path)
    assert script.status_code != 403


@pytest.mark.parametrize("origin", ["*", SITE["Origin"]])
async def test_allowed_pages_can(make_app: MAKE_APP, origin: str) -> None:
    client = make_app(enable_admin=True, allowed_origins=(origin,)).test_client()
    assert (await client.post("/reset_prefix_cache", headers=SITE)).status_code != 403
    other = {**SITE, "Origin": "https://other.example"}
    assert (await client.post("/pause", headers=other)).status_code == (
        200 if origin == "*" else 403
    )


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/server_info", "/v1/files"])
async def test_pages_cannot_read_answers(make_app: MAKE_APP, path: str) -> None:
    answer = await make_app(enable_admin=True).test_client().get(path, headers=SITE)
    assert answer.status_code == 200
    assert not [name for name, _ in answer.headers if name.lower().startswith("access-control")]


async def test_browsers_add_no_key_by_themselves(make_app: MAKE_APP) -> None:
    """Neither cookies nor what a browser remembers of a user and a password is a key."""
    client: Client = make_app(api_keys=(KEY,), allowed_origins=("*",)).test_client()
    for headers in ({"Cookie": f"api_key={KEY}; x-api-key={KEY}"}, {"Authorization": "Basic eDp5"}):
        answer = await client.get("/v1/models", headers={**SITE, **headers})
        assert answer.status_code == 401
