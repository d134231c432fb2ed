"""Options of connections: TLS, how many connections there may be, and how slow their clients."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from headrace.protocol.engine_config import AbsolutePath, Frozen, Positive

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]

# Connections of an address, unless the operator says how many, and it is another machine's.
DEFAULT_PER_ADDRESS = 1024


class TLSOptions(Frozen):
    """Options of TLS on the HTTP socket, which is on when there is a certificate."""

    ssl_certfile: AbsolutePath | None = Field(
        None,
        description="certificate of the server and its chain (PEM): serve HTTPS, by TLS 1.2 or 1.3",
    )
    ssl_keyfile: AbsolutePath | None = Field(
        None, description="private key of the certificate (PEM), if it is not in the same file"
    )
    ssl_ca_certs: AbsolutePath | None = Field(
        None, description="authorities (PEM) whose certificates clients may show"
    )
    ssl_cert_reqs: Literal[0, 1, 2] = Field(
        0,
        description=(
            "whether clients show a certificate: 0 never, 1 if they have one, 2 always (others are "
            "not connected)"
        ),
    )
    ssl_ciphers: str | None = Field(
        None, description="ciphers of TLS 1.2, as OpenSSL writes them; those of 1.3 are fixed"
    )
    enable_ssl_refresh: bool = Field(
        False,
        description="use a changed certificate, key or list of authorities for new connections",
    )

    @field_validator("ssl_cert_reqs", mode="before")
    @classmethod
    def _as_number(cls, value: object) -> object:
        return int(value) if isinstance(value, str) and value in ("0", "1", "2") else value

    @field_validator("ssl_keyfile", "ssl_ca_certs", "ssl_ciphers", "enable_ssl_refresh")
    @classmethod
    def _needs_certificate(cls, value: object, info: ValidationInfo) -> object:
        if value and "ssl_certfile" in info.data and info.data["ssl_certfile"] is None:
            raise ValueError("needs ssl_certfile")
        return value

    @field_validator("ssl_cert_reqs")
    @classmethod
    def _needs_authorities(cls, value: int, info: ValidationInfo) -> int:
        if value and "ssl_ca_certs" in info.data and info.data["ssl_ca_certs"] is None:
            raise ValueError("needs ssl_ca_certs")
        return value

    @property
    def scheme(self) -> str:
        """Return the scheme of the server's URLs."""
        return "http" if self.ssl_certfile is None else "https"


class ConnectionOptions(Frozen):
    """Limits of connections."""

    max_connections: Positive = Field(
        8192,
        description=(
            "greatest number of connections, all frontends together; fewer where descriptors are "
            "scarce. More are answered with 503 and closed"
        ),
    )
    max_connections_per_address: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description=(
            "greatest number of connections from an IPv4 address or an IPv6 network of 64 bits; 0: "
            "any number"
        ),
    )
    header_timeout_s: Seconds = Field(
        20.0, description="seconds for a request's headers to arrive once they have begun"
    )
    body_timeout_s: Seconds = Field(
        20.0,
        description=(
            "seconds for a request's body to arrive, besides those that it takes at the least rate"
        ),
    )
    min_body_rate: Annotated[int, Field(ge=0)] = Field(
        1024,
        description=(
            "least rate in bytes a second at which clients must send bodies and read answers; 0: "
            "any progress will do"
        ),
    )
    write_timeout_s: Seconds = Field(
        60.0,
        description=(
            "seconds that an answer may wait for a client that does not read it; then the "
            "connection is closed and the request ends"
        ),
    )
    tls_handshake_timeout_s: Seconds = Field(10.0, description="seconds for the handshake of TLS")
    h2_max_streams: Annotated[int, Field(ge=1, le=10_000)] = Field(
        100, description="greatest number of requests at once on a connection of HTTP/2"
    )
