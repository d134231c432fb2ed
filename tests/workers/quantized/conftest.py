"""Fixtures of tests with quantized weights."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.workers.native.shared_file import SharedFile
from tests.workers.native.test_shared_file import NAME


@pytest.fixture
def shared_file() -> Iterator[SharedFile]:
    fd = os.memfd_create(NAME)
    yield SharedFile(Path(f"/proc/self/fd/{fd}"), NAME)
    os.close(fd)
