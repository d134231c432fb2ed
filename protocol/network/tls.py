"""The server's side of TLS: contexts that are checked before they are used."""

import ssl
from pathlib import Path

from headrace.protocol.network.connection_options import TLSOptions

# Ciphers of TLS 1.2 with forward secrecy and authenticated encryption, as HTTP/2 requires.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
PROTOCOLS = ["h2", "http/1.1"]


class TLSError(Exception):
    """An option of TLS cannot be used. The text is one line.

    option: the name of the option.
    """

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{option}: {reason}")
        self.option, self.reason = option, reason


def server_context(options: TLSOptions) -> ssl.SSLContext:
    """Return a context made of the files as they are now.

    Raises TLSError if a file cannot be read, or does not fit another.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(PROTOCOLS)
    try:
        context.set_ciphers(options.ssl_ciphers or CIPHERS)
    except ssl.SSLError:
        raise TLSError("ssl_ciphers", "OpenSSL knows no such ciphers of TLS 1.2") from None
    _load_certificate(context, options)
    if options.ssl_ca_certs is not None:
        _load_authorities(context, options.ssl_ca_certs)
        context.verify_mode = ssl.VerifyMode(options.ssl_cert_reqs)
    return context


def files_of(options: TLSOptions) -> tuple[tuple[str, Path], ...]:
    """Return the files that a context is made of, by the names of their options."""
    named = (
        ("ssl_certfile", options.ssl_certfile),
        ("ssl_keyfile", options.ssl_keyfile),
        ("ssl_ca_certs", options.ssl_ca_certs),
    )
    return tuple((name, file) for name, file in named if file is not None)


class _Encrypted(Exception):
    pass


def _refuse_password() -> str:
    """Refuse to decrypt a key: OpenSSL would ask for the password on the terminal."""
    raise _Encrypted


def _load_certificate(context: ssl.SSLContext, options: TLSOptions) -> None:
    for name, file in files_of(options):
        _check_readable(name, file)
    assert options.ssl_certfile is not None
    key = "ssl_certfile" if options.ssl_keyfile is None else "ssl_keyfile"
    try:
        context.load_cert_chain(options.ssl_certfile, options.ssl_keyfile, _refuse_password)
    except _Encrypted:
        raise TLSError(key, "the key is encrypted: give one that needs no password") from None
    except ssl.SSLError as error:
        raise _of_certificate(error, key, options.ssl_certfile) from None


def _of_certificate(error: ssl.SSLError, key: str, certificate: Path) -> TLSError:
    """Return the error that tells which of the two files is at fault."""
    reason = error.reason or ""
    if reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
        return TLSError(key, "the key does not belong to the certificate")
    if reason in ("EE_KEY_TOO_SMALL", "CA_MD_TOO_WEAK", "CA_KEY_TOO_SMALL"):
        return TLSError("ssl_certfile", "the certificate is too weak for OpenSSL's settings")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate)
    except ssl.SSLError:
        return TLSError("ssl_certfile", "is not a certificate (PEM)")
    hint = "; --ssl-keyfile names a file of its own" if key == "ssl_certfile" else ""
    return TLSError(key, f"has no private key (PEM){hint}")


def _load_authorities(context: ssl.SSLContext, file: Path) -> None:
    try:
        context.load_verify_locations(file)
    except ssl.SSLError:
        raise TLSError("ssl_ca_certs", "is not a list of certificates (PEM)") from None


def _check_readable(name: str, file: Path) -> None:
    try:
        with file.open("rb"):
            return
    except OSError as error:
        raise TLSError(name, f"{file}: {error.strerror}") from None
