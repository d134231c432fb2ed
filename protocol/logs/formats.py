"""The formats of the log: text for people, JSON for programs."""

import json
import logging
from datetime import UTC, datetime

TEXT_FORMAT = "%(asctime)s %(levelname)-7s %(processName)-14s %(message)s"

# Attributes of a record that are fields of its JSON object, where it has them.
ACCESS_FIELDS = ("client", "key", "method", "path", "status", "bytes", "duration_s")


class TextFormatter(logging.Formatter):
    """Formats a record as a line with its time, level, process, message and perhaps request."""

    def __init__(self) -> None:
        super().__init__(TEXT_FORMAT, "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line before an exception's text."""
        request_id = getattr(record, "request_id", None)
        line = super().formatMessage(record)
        return f"{line} [{request_id}]" if request_id else line


class JSONFormatter(logging.Formatter):
    """Formats a record as a JSON object in one line.

    Keys: time, level, process, pid, logger, message; request_id, exception and those of the access
    log where there are any.
    """

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC)
        fields: dict[str, object] = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "process": record.processName,
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        request_id = getattr(record, "request_id", None)
        if request_id:
            fields["request_id"] = request_id
        if record.exc_text:
            fields["exception"] = record.exc_text
        attributes = record.__dict__
        fields |= {name: attributes[name] for name in ACCESS_FIELDS if name in attributes}
        return json.dumps(fields, ensure_ascii=False)
