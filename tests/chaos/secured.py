"""The keys and the certificate of a secured run."""

import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.servers import NO_CERTIFICATES

USER_KEY, ADMIN_KEY = "chaos-user-key", "chaos-admin-key"


@dataclass(frozen=True)
class Security:
    """What makes a pool's clients need a key and speak TLS.

    flags: of the pool. key: of an administrator. context: that trusts the pool's certificate.
    has_tls: whether the pool speaks TLS.
    """

    flags: Sequence[str] = ()
    key: str = ""
    context: ssl.SSLContext = NO_CERTIFICATES
    has_tls: bool = False


def make_security(folder: Path) -> Security:
    """Return keys, and a new certificate for localhost, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    certificate, private = folder / "certificate.pem", folder / "private.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(private), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    keys = ("--api-key", USER_KEY, "--admin-key", ADMIN_KEY)
    tls = ("--ssl-certfile", str(certificate), "--ssl-keyfile", str(private))
    context = ssl.create_default_context(cafile=str(certificate))
    return Security((*keys, *tls), ADMIN_KEY, context, has_tls=True)
