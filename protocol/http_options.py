"""Options of the HTTP server."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from headrace.protocol.engine_config import Frozen, Positive

_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s?#@]+")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


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
    allowed_origins: tuple[str, ...] = Field(
        (),
        description=(
            "sites whose pages may use the server from browsers (CORS), as a JSON list of origins "
            "such as https://app.example; *: all"
        ),
    )
    allowed_methods: tuple[str, ...] = Field(
        ("*",), description="methods that those pages may use, as a JSON list; *: all"
    )
    allowed_headers: tuple[str, ...] = Field(
        ("*",), description="headers that those pages may send, as a JSON list; *: all"
    )
    allow_credentials: bool = Field(
        False, description="let those pages send cookies and other credentials of their browsers"
    )
    middleware: tuple[str, ...] = Field(
        (),
        description=(
            "import path of an ASGI class, or of an async function of a request and its "
            "successor, through which all requests go; may be repeated, the last is the outermost"
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

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, value: str) -> str:
        """Return the prefix as paths begin with it: with a slash before it and none after it."""
        if re.search(r"[\s?#%\\]|//", value):
            raise ValueError("must be a path such as /llm")
        return "/" + value.strip("/") if value.strip("/") else ""

    @field_validator("allowed_origins", "allowed_methods", "allowed_headers", mode="before")
    @classmethod
    def _parse_cors_list(cls, value: Any) -> Any:
        """Parse a JSON list, or take a text without brackets for its only entry."""
        if not isinstance(value, str):
            return value
        if not value.lstrip().startswith("["):
            return (value.strip(),)
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError("must be a JSON list of texts") from error

    @field_validator("allowed_origins")
    @classmethod
    def _check_cors_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Write origins as browsers do."""
        origins = tuple(origin.strip().lower().removesuffix("/") for origin in value)
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"must be origins (scheme://host[:port]) or *: {origin[:100]!r}")
        return origins

    @field_validator("allowed_methods", "allowed_headers")
    @classmethod
    def _check_cors_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for token in value:
            if not _TOKEN.fullmatch(token):
                raise ValueError(f"must be names or *: {token[:100]!r}")
        return value

    @field_validator("middleware")
    @classmethod
    def _check_import_paths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for path in value:
            if not _IMPORT_PATH.fullmatch(path):
                raise ValueError(f"must be an import path, module.name: {path[:100]!r}")
        return value
