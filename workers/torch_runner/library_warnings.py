"""What transformers warns of while it reads a model, for the operator."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LIBRARY = "transformers"
_MAX_LINE = 300  # characters
# About code that calls it, not about the model; and its table of keys, which is read as such.
_OF_NO_USE = ("deprecated", "LOAD REPORT", "`use_cache=True`")


class _Collector(logging.Handler):
    """Keeps the first lines of records, each once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().strip()
        if text and not any(words in text for words in _OF_NO_USE):
            self.lines[text.splitlines()[0][:_MAX_LINE]] = None


@contextmanager
def library_warnings(log: Callable[[str], None]) -> Iterator[None]:
    """Give transformers' warnings within the context to `log`, in a line each, at its end; its
    progress bars are not shown."""
    from transformers.utils import logging as library_logging

    library_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logger, collector = logging.getLogger(_LIBRARY), _Collector()
    before = logger.level, logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [collector], False
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[1], before[2]
        logger.setLevel(before[0])
        for line in collector.lines:
            log(f"transformers warns: {line}")
