"""No route takes video or images, and only the forms that transcribe take audio, whose decoders
bound what they decode while they decode (tests/frontend/audio)."""

import base64
import re
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from tests.frontend.fake_pool import FakePool
from tests.security.request_fields import BODIES

OPUS = base64.b64encode(b"OggS" + bytes(24) + b"OpusHead\x01\x02" + bytes(100)).decode()
MEDIA: list[tuple[str, dict[str, Any]]] = [
    ("input_audio", {"input_audio": {"data": OPUS, "format": "opus"}}),
    ("audio_url", {"audio_url": {"url": f"data:audio/ogg;base64,{OPUS}"}}),
    ("audio", {"source": {"type": "base64", "media_type": "audio/ogg", "data": OPUS}}),
    ("video_url", {"video_url": {"url": "data:video/jpeg;base64," + ",".join([OPUS] * 100)}}),
    ("image_url", {"image_url": {"url": f"data:image/png;base64,{OPUS}"}}),
    ("image", {"source": {"type": "base64", "media_type": "image/png", "data": OPUS}}),
]
FORMS = {"/v1/audio/transcriptions", "/v1/audio/translations"}
# Routes with messages, and how deep in lists these are.
MESSAGES = {
    "/v1/chat/completions": ("messages", False),
    "/v1/chat/completions/batch": ("messages", True),
    "/v1/messages": ("messages", False),
    "/v1/messages/count_tokens": ("messages", False),
    "/v1/responses": ("input", False),
    "/v1/responses/input_tokens": ("input", False),
    "/invocations": ("messages", False),
    "/tokenize": ("messages", False),
}


@pytest.mark.parametrize(("kind", "fields"), MEDIA, ids=[kind for kind, _ in MEDIA])
async def test_cve_2026_54233_34755_media_in_messages_are_refused(
    client: Client, pool: FakePool, kind: str, fields: dict[str, Any]
) -> None:
    """CVE-2026-54233 (GHSA-6pr9-rp53-2pmc): a little Opus becomes gigabytes of samples.
    CVE-2026-34755: as many frames of a video as a client likes."""
    for route, (name, is_nested) in MESSAGES.items():
        message = {"role": "user", "content": [{"type": kind, **fields}]}
        body = {key: value for key, value in BODIES[route].items() if key != "prompt"}
        messages = [[message]] if is_nested else [message]
        response = await client.post(route, json={**body, name: messages})
        text = await response.get_data(as_text=True)
        assert response.status_code == 400, (route, text)
        assert kind in text, (route, text)
    assert not pool.requests


async def test_cve_2026_54233_no_route_is_for_media(client: Client) -> None:
    """CVE-2026-54233, CVE-2026-34755: no route, form or field of the server's own description."""
    document = await (await client.get("/openapi.json")).get_json()
    assert len(document["paths"]) > 30
    media = [path for path in document["paths"] if re.search("audio|image|video|speech", path)]
    assert set(media) == FORMS
    kinds = {
        kind
        for path, item in document["paths"].items()
        for operation in item.values()
        if path not in FORMS
        for kind in operation.get("requestBody", {}).get("content", {})
    }
    assert kinds == {"application/json"}
    for field in ("audio", "images", "videos"):
        body = {**BODIES["/v1/systemone"], field: [OPUS]}
        response = await client.post("/v1/systemone", json=body)
        assert response.status_code == 400
        assert (await response.get_json())["error"]["param"] == field
