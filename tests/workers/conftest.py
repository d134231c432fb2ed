import os
from collections.abc import Iterator

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Before each test, since loading a model sets the number. Two threads gain nothing on models
    this small, and spin while they wait for each other: on a busy machine that is most of the
    time."""
    import torch

    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)
