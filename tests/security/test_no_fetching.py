"""No URL in a request is fetched: a server of ours that is named in every field hears nothing."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.protocol.config import ServingOptions
from tests.frontend.conftest import MAKE_APP
from tests.security.request_fields import BODIES, JSON, USER, request_fields, url_of

SHAPES: list[tuple[Any, set[str]]] = [
    ("URL", {"string", "any"}),
    (["URL"], {"array", "any"}),
    ({"url": "URL"}, {"object", "any"}),
]


@pytest.fixture
def canary() -> Iterator[socket.socket]:
    """A server that has never been reached; its connections would wait to be accepted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def has_been_reached(canary: socket.socket) -> bool:
    try:
        canary.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def forms_of(canary: socket.socket) -> list[str]:
    address = f"127.0.0.1:{canary.getsockname()[1]}"
    return [f"http://{address}/x.png", f"http:\\\\{address}\\x", f"//{address}/x", f"{address}/x"]


def nested(url: str) -> list[tuple[str, dict[str, Any]]]:
    """Where clients of these APIs write URLs, which the document may not know."""
    image = {"type": "image_url", "image_url": {"url": url}}
    parts: list[dict[str, Any]] = [
        image,
        {"type": "input_image", "image_url": url},
        {"type": "input_file", "file_url": url},
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "audio_url", "audio_url": {"url": url}},
        {"type": "image", "source": {"type": "url", "url": url}},
        {"type": "document", "source": {"type": "url", "url": url}},
    ]
    asked: list[tuple[str, dict[str, Any]]] = [
        (route, {"messages": [{"role": "user", "content": [part]}]})
        for route in ("/v1/chat/completions", "/v1/messages", "/tokenize")
        for part in parts
    ]
    asked += [("/v1/responses", {"input": [{"role": "user", "content": [p]}]}) for p in parts]
    mcp = {"type": "mcp", "server_label": "x", "server_url": url, "require_approval": "never"}
    kinds: list[dict[str, Any]] = [
        mcp,
        {"type": "web_search", "url": url},
        {"type": "file_search", "url": url},
    ]
    asked += [("/v1/responses", {"tools": [tool]}) for tool in kinds]
    schema = {"$ref": url, "$schema": url, "$id": url}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    function = {"type": "function", "function": {"name": "f", "parameters": schema}}
    template = "{% include '" + url + "' %}"
    fields: list[dict[str, Any]] = [
        {"response_format": form},
        {"tools": [function]},
        {"chat_template": template},
    ]
    asked += [("/v1/chat/completions", {"messages": [USER], **each}) for each in fields]
    server = {"type": "url", "url": url, "name": "x"}
    return [*asked, ("/v1/messages", {"mcp_servers": [server]})]


async def test_cve_2026_24779_no_field_is_fetched(
    make_app: MAKE_APP, canary: socket.socket
) -> None:
    """CVE-2026-24779, CVE-2026-34753: requests to places that a client names."""
    client = make_app(enable_admin=True).test_client()
    fields = await request_fields(client)
    assert len({each.path[0] for each in fields}) > 100
    first = forms_of(canary)[0]
    for field in fields:
        for value, types in SHAPES:
            if field.types & types:
                data = field.body(json.dumps(value).replace("URL", first))
                await client.post(url_of(field.route), data=data, headers=JSON)
    assert not has_been_reached(canary)
    serving = ServingOptions(trust_request_chat_template=True)
    client = make_app(serving=serving).test_client()
    for url in forms_of(canary):
        for route, body in nested(url):
            response = await client.post(route, json={**BODIES[route], **body})
            assert response.status_code < 500
        assert not has_been_reached(canary), url


async def test_the_canary_hears_what_is_fetched(canary: socket.socket) -> None:
    """So that the test above could fail."""
    with socket.create_connection(canary.getsockname()):
        assert has_been_reached(canary)


async def test_cve_2026_34753_lines_of_batches_are_not_fetched(
    client: Client, canary: socket.socket
) -> None:
    """CVE-2026-34753: a batch's lines name routes of this server, never URLs."""
    url = forms_of(canary)[0]
    body = {"input_file_id": url, "endpoint": url, "completion_window": "24h"}
    response = await client.post("/v1/batches", json=body)
    assert response.status_code == 400
    assert (await response.get_json())["error"]["param"] == "endpoint"
    assert not has_been_reached(canary)
