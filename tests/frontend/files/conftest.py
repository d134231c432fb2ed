"""A frontend with a folder of files."""

from collections.abc import AsyncIterator, Callable

import pytest
from quart import Quart
from quart.typing import TestClientProtocol as Client


@pytest.fixture
async def client(make_app: Callable[..., Quart]) -> AsyncIterator[Client]:
    async with make_app(file_max_bytes=100_000).test_app() as app:
        yield app.test_client()
