"""Options of the log."""

import logging
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from headrace.protocol.engine_config import Frozen
from headrace.protocol.logs.config_file import read_log_config

LogLevel = Literal["debug", "info", "warning", "error", "critical"]
_LEVELS = {"trace": "debug", "warn": "warning", "notset": "debug"}


class LogOptions(Frozen):
    """Options of the log."""

    log_level: LogLevel = Field("info", description="debug, info, warning, error or critical")
    log_format: Literal["text", "json"] = Field(
        "text", description="text, or json: each record of each process is an object in one line"
    )
    log_config: dict[str, Any] | None = Field(
        None,
        description=(
            "file with a configuration for Python's logging.config.dictConfig (.json, .toml, "
            ".yaml), for all processes"
        ),
    )
    access_log: bool | None = Field(None, description="log a line for each answered HTTP request")
    access_log_except: tuple[str, ...] = Field(
        (),
        description=(
            "paths whose requests the access log leaves out, separated by commas; all others are "
            "logged"
        ),
    )
    http_log_level: LogLevel | None = Field(
        None, description="level of the HTTP server's own log; above info, no access log"
    )
    disable_log_stats: bool = Field(False, description="do not log the throughput of each group")
    log_stats_interval_s: Annotated[float, Field(gt=0)] = Field(
        10.0, description="seconds between lines of throughput while there is work"
    )
    enable_log_requests: bool = Field(False, description="log requests with their prompts")
    enable_log_outputs: bool = Field(
        False, description="log outputs, too; needs enable_log_requests"
    )
    max_log_len: Annotated[int, Field(ge=0)] | None = Field(
        None, description="characters, or token ids, of each prompt and output in the log"
    )
    log_responses: bool = Field(
        False,
        description="log the bodies of all answers, to find errors; they hold what users are told",
    )
    log_error_stack: bool = Field(False, description="log the traceback of each error answer")

    @property
    def logs_access(self) -> bool:
        """Whether requests have lines in the access log."""
        is_wanted = bool(self.access_log_except) if self.access_log is None else self.access_log
        return is_wanted and self.http_log_level in (None, "debug", "info")

    @property
    def http_level(self) -> int:
        """The level of the HTTP server's own log."""
        level = self.http_log_level or "warning"
        return logging.getLevelNamesMapping()[level.upper()]

    @field_validator("enable_log_outputs")
    @classmethod
    def _log_outputs_with_requests(cls, value: bool, info: ValidationInfo) -> bool:
        if value and not info.data.get("enable_log_requests"):
            raise ValueError("needs enable_log_requests")
        return value

    @field_validator("log_level", "http_log_level", "log_format", mode="before")
    @classmethod
    def _lower_case(cls, value: Any) -> Any:
        return _LEVELS.get(value.lower(), value.lower()) if isinstance(value, str) else value

    @field_validator("log_config", mode="before")
    @classmethod
    def _read_log_config(cls, value: Any) -> Any:
        """Read the file at once: a process that starts later must not find another."""
        return read_log_config(Path(value)) if isinstance(value, str | Path) else value

    @field_validator("access_log_except", mode="before")
    @classmethod
    def _split_access_paths(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator("access_log_except")
    @classmethod
    def _check_access_paths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for path in value:
            if not path.startswith("/"):
                raise ValueError(f"must be paths that begin with /: {path[:100]!r}")
        return value
