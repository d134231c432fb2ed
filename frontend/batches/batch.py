"""Read batches from their rows, and write them as clients see them."""

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy import Row

BatchStatus = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
VALIDATING: Final = "validating"
FAILED: Final = "failed"
IN_PROGRESS: Final = "in_progress"
FINALIZING: Final = "finalizing"
COMPLETED: Final = "completed"
EXPIRED: Final = "expired"
CANCELLING: Final = "cancelling"
CANCELLED: Final = "cancelled"
STATUSES: tuple[BatchStatus, ...] = (
    VALIDATING,
    FAILED,
    IN_PROGRESS,
    FINALIZING,
    COMPLETED,
    EXPIRED,
    CANCELLING,
    CANCELLED,
)
# Batches that some frontend must still work on.
ACTIVE = (VALIDATING, IN_PROGRESS, FINALIZING, CANCELLING)

_TIMES = (
    "in_progress_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)


class Progress(NamedTuple):
    """What is done of a batch. failed: lines that have ended with an error."""

    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: object) -> "Progress":
        """Return the sums, field by field."""
        if not isinstance(other, Progress):
            return NotImplemented
        return Progress(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class StoredBatch(NamedTuple):
    """A batch. options: endpoint, input_file_id, completion_window, metadata,
    output_expires_after_s and key. models: None before the input is validated."""

    batch_id: str
    status: BatchStatus
    created_at: float
    expires_at: float
    options: dict[str, Any]
    runs: int
    fruitless: int
    models: list[str] | None
    errors: list[dict[str, Any]] | None
    times: Mapping[str, float | None]
    output_file_id: str | None
    error_file_id: str | None
    total: int
    progress: Progress
    tenant: str = ""

    @property
    def key_name(self) -> str:
        """The name of the key that created it; "" on a server without keys."""
        return str(self.options.get("key", ""))

    @property
    def endpoint(self) -> str:
        return str(self.options["endpoint"])

    @property
    def input_file_id(self) -> str:
        return str(self.options["input_file_id"])

    def body(self) -> dict[str, Any]:
        """Return the batch as clients see it."""
        done = self.progress
        errors = None if self.errors is None else {"object": "list", "data": self.errors}
        return {
            "id": self.batch_id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.models[0] if self.models else None,
            "errors": errors,
            "input_file_id": self.input_file_id,
            "completion_window": self.options["completion_window"],
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": int(self.created_at),
            "expires_at": int(self.expires_at),
            **{name: None if at is None else int(at) for name, at in self.times.items()},
            "request_counts": {
                "total": self.total,
                "completed": done.completed,
                "failed": done.failed,
            },
            "usage": {
                "input_tokens": done.input_tokens,
                "input_tokens_details": {"cached_tokens": done.cached_tokens},
                "output_tokens": done.output_tokens,
                "output_tokens_details": {"reasoning_tokens": done.reasoning_tokens},
                "total_tokens": done.input_tokens + done.output_tokens,
            },
            "metadata": self.options["metadata"],
        }


def read_batch(row: Row[Any]) -> StoredBatch:
    """Return the batch of a row."""
    return StoredBatch(
        batch_id=row.id,
        status=row.status,
        created_at=row.created_at,
        expires_at=row.expires_at,
        options=json.loads(row.options),
        runs=row.runs,
        fruitless=row.fruitless,
        models=None if row.models is None else json.loads(row.models),
        errors=None if row.errors is None else json.loads(row.errors),
        times={name: getattr(row, name) for name in _TIMES},
        output_file_id=row.output_file_id,
        error_file_id=row.error_file_id,
        total=row.total,
        progress=Progress(*(getattr(row, name) for name in Progress._fields)),
        tenant=row.tenant,
    )
