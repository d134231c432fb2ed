"""Options of the HTTP server."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from headrace.protocol.engine_config import Frozen, Positive


class HTTPOptions(Frozen):
    """Options of the HTTP server."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        8000, description="port to listen on; 0: any free one"
    )
    uds: Path | None = Field(
        None, description="Unix socket to listen on, instead of a host and port"
    )
    frontends: Positive = Field(2, description="HTTP processes")
    root_path: str = Field(
        "",
        description=(
            "prefix under which a proxy serves this server; routes answer with and without it"
        ),
    )
    max_body_bytes: Positive = Field(
        8 * 1024 * 1024, description="size of the largest request body"
    )
    strict_fields: bool = Field(
        False, description="reject requests with unknown fields, instead of ignoring these"
    )
    max_header_bytes: Annotated[int, Field(ge=1024)] = Field(
        64 * 1024, description="size of a request's headers; larger ones get 431"
    )
    max_headers: Annotated[int, Field(ge=16)] = Field(
        256, description="greatest number of headers of a request; more get 431"
    )
    keep_alive_s: Annotated[float, Field(gt=0)] = Field(
        75.0,
        description=(
            "seconds that an idle connection is kept; longer than in proxies, so that they close "
            "first"
        ),
    )
    enable_tokenizer_info: bool = Field(False, description="serve /tokenizer_info")
    disable_docs: bool = Field(False, description="do not serve /docs and /openapi.json")
    shutdown_timeout_s: Annotated[float, Field(ge=0)] = Field(
        30.0, description="seconds for requests to finish after SIGTERM"
    )
    request_timeout_s: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description=(
            "seconds after which a request without an answer ends with 504; clients may ask for "
            "less by X-Request-Timeout-Ms"
        ),
    )
    sse_keep_alive_interval_s: Annotated[float, Field(ge=0)] = Field(
        15.0,
        description=(
            "seconds of silence after which a stream gets a comment, before its first token too; "
            "0: never"
        ),
    )
