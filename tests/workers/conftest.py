import os
from collections.abc import Iterator

import pytest

from headrace.protocol.config import CpuKernels

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def kernel_set(request: pytest.FixtureRequest) -> Iterator[CpuKernels]:
    """The chosen kernels: the fastest, or those that `on_each_set` gives. Building an engine makes
    a choice for its process, which must not remain for the next test."""
    from headrace.workers.native.library import choose_kernels

    chosen: CpuKernels = getattr(request, "param", "auto")
    choose_kernels(chosen)
    yield chosen
    choose_kernels("auto")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Before each test, since loading a model sets the number. Two threads gain nothing on models
    this small, and spin while they wait for each other: on a busy machine that is most of the
    time."""
    import torch

    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)
