"""A frontend of a model that transcribes, on a fake pool."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from quart.datastructures import FileStorage
from quart.typing import TestClientProtocol as Client

from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.frontend.speech.models import (
    FakeRecordings,
    FakeSource,
    Script,
    Workers,
    speech_text,
)

Fields = dict[str, Any]
MakeClient = Callable[..., Client]


@pytest.fixture
def recordings() -> FakeRecordings:
    return FakeRecordings()


@pytest.fixture
def make_client(make_app: MAKE_APP, pool: FakePool, recordings: FakeRecordings) -> MakeClient:
    """A client of a model; a script, or texts of the windows, say what workers write."""

    def make(
        script: Script | list[str] | None = None,
        is_multilingual: bool = True,
        settings: Fields | None = None,
        **workers: Any,
    ) -> Client:
        texts = [" The capital of France."] if script is None else script
        chosen = (lambda number, _: [texts[number]]) if isinstance(texts, list) else texts
        model = speech_text(is_multilingual)
        Workers(model, chosen, **workers).join(pool)
        source = FakeSource(recordings)
        return make_app(model=model, recordings=source, **(settings or {})).test_client()

    return make


def form(**fields: Any) -> Fields:
    """The arguments of a request with a recording."""
    data = fields.pop("data", b"RIFF of a kind")
    return {
        "form": {name: str(value) for name, value in fields.items()},
        "files": {"file": FileStorage(BytesIO(data), filename="speech.wav")},
    }


def multipart(fields: list[tuple[str, Any]], data: bytes = b"sound") -> Fields:
    """The headers and the body of a request, whose fields may have several values."""
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields
    ]
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    return {"headers": headers, "data": b"".join([*parts, head, data, b"\r\n--x--\r\n"])}
