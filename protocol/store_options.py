"""Options of what clients keep on the server."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from headrace.protocol.engine_config import AbsolutePath, Frozen, Positive


class StoreOptions(Frozen):
    """Options of responses, files and batches that are kept."""

    response_store_url: str | None = Field(
        None, description="database of /v1/responses: sqlite:///path or postgresql+psycopg://..."
    )
    response_store_max_age_s: Annotated[float, Field(gt=0)] = Field(
        30 * 24 * 3600.0, description="seconds that responses are kept"
    )
    response_store_max_count: Annotated[int, Field(ge=0)] = Field(
        10_000, description="responses that are kept"
    )
    file_dir: AbsolutePath | None = Field(
        None, description="folder of /v1/files and running batches"
    )
    file_max_bytes: Positive = Field(512 * 1024 * 1024, description="size of the largest file")
    file_store_max_bytes: Positive = Field(
        16 * 1024**3, description="bytes that are kept in files, all together"
    )
    file_store_max_count: Positive = Field(10_000, description="files that are kept")
    file_store_max_age_s: Annotated[float, Field(gt=0)] = Field(
        30 * 24 * 3600.0, description="seconds that files and ended batches are kept"
    )
    batch_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="share of each worker's max_num_seqs that lines of batches may take"
    )

    @field_validator("response_store_url")
    @classmethod
    def _check_store(cls, value: str | None) -> str | None:
        """Check the URL. It may contain a password, which errors must not show."""
        if value is None or value.startswith("postgresql+psycopg://"):
            return value
        scheme, _, path = value.partition(":///")
        if scheme != "sqlite" or not path or path.startswith((":", "file:")):
            raise ValueError("must be sqlite:///path or postgresql+psycopg://user@host/database")
        return f"sqlite:///{Path(path).absolute()}"
