"""Pools that the modules of this folder share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Launch, Server


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where prepared models are kept for the session. CI's machines begin with none."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def launch(fake_model: Path, cache_dir: Path) -> Iterator[Launch]:
    """Starts pools of the fake engine; all of them are stopped when the module ends."""
    started: list[Server] = []

    def start(*flags: str, step_s: float = 0.0, model: Path = fake_model) -> Server:
        fake = ["--engine", "fake", "--fake-step-s", str(step_s)]
        server = Server(["--model", str(model), *fake, *flags], cache_dir)
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()
