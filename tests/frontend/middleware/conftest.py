"""Records of Headrace's loggers, as a test looks at them."""

import logging
from collections.abc import Iterator

import pytest


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """Records of the access log and of answers, in their order."""
    handler = _Kept()
    loggers = [logging.getLogger(f"headrace.{name}") for name in ("access", "responses")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel("INFO")
    yield handler.records
    for logger in loggers:
        logger.removeHandler(handler)
        logger.setLevel("NOTSET")
