"""Options of the log."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from headrace.protocol.engine_config import Frozen


class LogOptions(Frozen):
    """Options of the log."""

    log_level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        "info", description="debug, info, warning, error or critical"
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

    @field_validator("enable_log_outputs")
    @classmethod
    def _log_outputs_with_requests(cls, value: bool, info: ValidationInfo) -> bool:
        if value and not info.data.get("enable_log_requests"):
            raise ValueError("needs enable_log_requests")
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return {"trace": "debug", "warn": "warning"}.get(value.lower(), value.lower())
