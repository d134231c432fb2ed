"""Requests that two servers in a row could read differently: 400, and the connection is closed.

RFC 9112, sections 2.2, 5 and 6: a request that a proxy and this server end at different places lets
a client prepend bytes to the next one's request.
"""

import pytest

from tests.end_to_end.network.raw import Reply, ask, head
from tests.end_to_end.servers import Server

BODY = b'{"prompt":"hi","max_tokens":1}'
CHUNKED = b"1e\r\n" + BODY + b"\r\n0\r\n\r\n"
NEXT = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
LENGTH = f"Content-Length: {len(BODY)}"
TE = "Transfer-Encoding: chunked"


def chunks(data: bytes) -> bytes:
    return head("/v1/completions", TE) + data


def lines(*given: bytes) -> bytes:
    return b"\r\n".join(given) + b"\r\n\r\n"


GET = b"GET /health HTTP/1.1"
HOST = b"Host: a"
AMBIGUOUS = {
    "length and chunks": head("/v1/completions", LENGTH, TE) + CHUNKED,
    "chunks and length": head("/v1/completions", TE, LENGTH) + CHUNKED,
    "length of nothing and chunks": head("/v1/completions", "Content-Length: 0", TE) + CHUNKED,
    "two lengths": head("/v1/completions", LENGTH, "Content-Length: 5") + BODY,
    "a list of lengths": head("/v1/completions", f"Content-Length: {len(BODY)}, 5") + BODY,
    "length with a sign": head("/v1/completions", f"Content-Length: +{len(BODY)}") + BODY,
    "negative length": head("/v1/completions", "Content-Length: -1") + BODY,
    "hexadecimal length": head("/v1/completions", "Content-Length: 0x1e") + BODY,
    "length of many digits": head("/v1/completions", "Content-Length: " + "9" * 5000) + BODY,
    "no length": head("/v1/completions", "Content-Length:") + BODY,
    "length in Unicode": head("/v1/completions", "Content-Length: \u0663") + BODY,
    "chunks by HTTP/1.0": chunks(CHUNKED).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "chunk size with 0x": chunks(b"0x1e\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size with a sign": chunks(b"+1e\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "negative chunk size": chunks(b"-1\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size of many digits": chunks(b"0" * 30 + b"1e\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "huge chunk size": chunks(b"f" * 21 + b"\r\n" + BODY),
    "no chunk size": chunks(b"\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size with a space before": chunks(b" 1e\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk longer than its size": chunks(b"5\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "line feed after a chunk": chunks(b"1e\r\n" + BODY + b"\n0\r\n\r\n"),
    "folded header": lines(GET, HOST, b"X-One: 1", b" 2"),
    "folded by a tab": lines(GET, HOST, b"X-One: 1", b"\t2"),
    "folded encoding": lines(b"POST / HTTP/1.1", HOST, b"Transfer-Encoding:", b" chunked"),
    "first header folded": lines(GET, b" Host: a", HOST),
    "line feeds only": b"GET /health HTTP/1.1\nHost: a\n\n",
    "one line feed only": b"GET /health HTTP/1.1\r\nHost: a\nX-One: 1\r\n\r\n",
    "line feeds at the end": b"GET /health HTTP/1.1\r\nHost: a\r\n\n",
    "carriage return in a value": lines(GET, HOST, b"X-One: 1\rX-Two: 2"),
    "two carriage returns": b"GET /health HTTP/1.1\r\r\nHost: a\r\n\r\n",
    "space before the colon": lines(GET, HOST, b"Content-Length : 0"),
    "tab before the colon": lines(GET, HOST, b"Transfer-Encoding\t: chunked"),
    "NUL in a value": lines(GET, HOST, b"X-One: a\0b"),
    "NUL in a name": lines(GET, HOST, b"X\0One: a"),
    "vertical tab in a value": lines(GET, HOST, b"Transfer-Encoding: \x0bchunked"),
    "name in Latin-1": lines(GET, HOST, "X-Öne: 1".encode("latin1")),
    "name with a parenthesis": lines(GET, HOST, b"X(One: 1"),
    "no name": lines(GET, HOST, b": 1"),
    "no colon": lines(GET, HOST, b"X-One"),
    "no host": lines(GET),
    "two hosts": lines(GET, HOST, b"Host: b"),
    "space in the target": lines(b"GET /health x HTTP/1.1", HOST),
    "two spaces": lines(b"GET  /health HTTP/1.1", HOST),
    "tab in the first line": lines(b"GET\t/health HTTP/1.1", HOST),
    "target in Latin-1": lines("GET /ö HTTP/1.1".encode("latin1"), HOST),
    "no version (HTTP/0.9)": b"GET /health\r\n\r\n",
    "version in small letters": lines(b"GET /health http/1.1", HOST),
    "version without a dot": lines(b"GET /health HTTP/11", HOST),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 50,
}
ENCODINGS = {
    "identity": "Transfer-Encoding: identity",
    "gzip": "Transfer-Encoding: gzip, chunked",
    "chunked twice": "Transfer-Encoding: chunked, chunked",
    "in two headers": "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "with a parameter": "Transfer-Encoding: chunked;a=b",
    "quoted": 'Transfer-Encoding: "chunked"',
    "and a length": f"Transfer-Encoding: x\r\nContent-Length: {len(BODY)}",
}


def check(reply: Reply, status: int) -> None:
    """One answer, in the form of other errors, and then the end."""
    assert reply.is_closed
    assert reply.data.count(b"HTTP/1.1 ") == 1
    assert reply.status == status
    assert b"\r\nconnection: close\r\n" in reply.data.lower()
    error = reply.body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == status


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_is_ambiguous_is_refused(name: str, fake_pool: Server) -> None:
    check(ask(fake_pool, AMBIGUOUS[name] + NEXT), 400)


@pytest.mark.parametrize("name", ENCODINGS)
def test_unknown_encodings_are_refused(name: str, fake_pool: Server) -> None:
    reply = ask(fake_pool, head("/v1/completions", ENCODINGS[name]) + CHUNKED + NEXT)
    check(reply, 501 if reply.status == 501 else 400)


@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0", "3.0", "9.9"])
def test_unknown_versions_are_refused(version: str, fake_pool: Server) -> None:
    check(ask(fake_pool, f"GET /health HTTP/{version}\r\nHost: a\r\n\r\n".encode()), 505)


def test_many_small_chunks_are_refused(fake_pool: Server) -> None:
    """Each takes time, whatever its size."""
    data = b"1\r\n \r\n" * 20_000
    check(ask(fake_pool, chunks(data + b"0\r\n\r\n"), timeout_s=5), 400)


def test_what_is_clear_is_answered(fake_pool: Server) -> None:
    model = b'{"model":"fake","prompt":"hi","max_tokens":1}'
    small = b"".join(b"1;a=b\r\n%c\r\n" % byte for byte in model) + b"0\r\nX-Trailer: 1\r\n\r\n"
    length = f"Content-Length: {len(model)}"
    for request in (
        head("/v1/completions", length, length) + model,  # the same twice: RFC 9110, 8.6
        head("/v1/completions", f"Content-Length: {len(model)}, {len(model)}") + model,
        head("/v1/completions", TE) + small,
        head("/v1/completions", "transfer-encoding: CHUNKED") + small,
        head("/v1/completions", length, "X-Odd!#$%&'*+-.^_`|~: \t odd \xff ") + model,
    ):
        reply = ask(fake_pool, request + NEXT, timeout_s=1)
        assert reply.data.count(b"HTTP/1.1 200") == 2, reply
        assert not reply.is_closed


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
def test_upgrades_are_ignored(upgrade: str, fake_pool: Server) -> None:
    """A proxy that lets one pass would not look at what comes after it."""
    headers = [f"Upgrade: {upgrade}", "Connection: Upgrade, HTTP2-Settings"]
    headers += ["HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", "Sec-WebSocket-Version: 13"]
    headers += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    reply = ask(fake_pool, head("/health", *headers, method="GET") + NEXT, timeout_s=1)
    assert reply.data.count(b"HTTP/1.1 200") == 2, reply
