"""How many connections there may be, in all and from an address, and what a client of HTTP/2 may
make a server do."""

import contextlib
import resource
import signal
import socket
import time
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import httpx
import hyperframe.frame
import pytest

from tests.end_to_end.network.raw import Reply, connect, head, read
from tests.end_to_end.servers import Launch, Server, wait_for

FRONTENDS, MOST, PER_ADDRESS = 2, 40, 20
# What a client says of its own address changes nothing.
CLAIMS = ("X-Forwarded-For: 10.1.2.3", "Forwarded: for=10.1.2.3", "X-Real-IP: 10.1.2.3")
GET = head("/health", *CLAIMS, method="GET")


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    flags = ["--workers", "1", "--frontends", str(FRONTENDS), "--max-connections", str(MOST)]
    return launch(*flags, "--max-connections-per-address", str(PER_ADDRESS))


def connect_from(server: Server, address: str) -> socket.socket:
    url = httpx.URL(server.url)
    return socket.create_connection((url.host, url.port or 80), 10, (address, 0))


def answers(connection: socket.socket) -> bool:
    """Whether a connection is served; asserts that it is told why if it is not."""
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(GET)
    reply = connection.recv(65536)
    if reply.startswith(b"HTTP/1.1 200"):
        return True
    refusal = Reply(reply, True, 0.0)
    assert refusal.status == 503
    assert b"\r\nRetry-After: 1\r\n" in reply
    assert refusal.body["error"]["message"].startswith("There are too many connections")
    assert read(connection, 2).is_closed
    return False


@contextlib.contextmanager
def held(server: Server, address: str, count: int) -> Iterator[list[bool]]:
    """Whether each of so many connections from an address is served; all stay open meanwhile."""
    opened = [connect_from(server, address) for _ in range(count)]
    try:
        yield [answers(each) for each in opened]
    finally:
        for each in opened:
            each.close()


def test_connections_of_an_address_are_limited(server: Server) -> None:
    for _ in range(3):  # those that have ended count no more
        with held(server, "127.0.0.2", PER_ADDRESS + 10) as served:
            assert PER_ADDRESS <= sum(served) <= PER_ADDRESS + FRONTENDS
            with held(server, "127.0.0.3", 5) as others:
                assert all(others)

        def is_free() -> bool:
            with held(server, "127.0.0.2", 5) as served:
                return all(served)

        wait_for(is_free, "connections end")


def test_all_connections_are_limited(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        counts = [
            sum(stack.enter_context(held(server, f"127.0.0.{host}", 15))) for host in range(4, 8)
        ]
        assert MOST <= sum(counts) <= MOST + FRONTENDS
        assert counts[0] == 15
    wait_for(lambda: server.get("/health").status_code == 200, "connections end")


def test_log_says_so_once(server: Server) -> None:
    assert 1 <= server.log.count("refused a connection: there are too many connections") <= 8


def test_proxies_of_this_machine_are_not_limited_unless_told(launch: Launch) -> None:
    plain = launch("--workers", "1", "--frontends", "1")
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(connect(plain)) for _ in range(1100)]
        assert answers(opened[-1])


def test_out_of_descriptors(launch: Launch) -> None:
    """Those that have none to spare refuse; the log is not filled."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    scarce = launch("--workers", "1", "--frontends", "1")
    (frontend,) = scarce.children("headrace.frontend.main")
    resource.prlimit(frontend.pid, resource.RLIMIT_NOFILE, (60, 60))
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connect(scarce))
        wait_for(lambda: "Too many open files" in scarce.log, "it says so")
        time.sleep(2)
        assert scarce.log.count("Too many open files") == 1
    wait_for(lambda: scarce.get("/health").status_code == 200, "it recovers")
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


def test_descriptors_are_raised(server: Server) -> None:
    for process in server.children():
        soft, hard = process.rlimit(resource.RLIMIT_NOFILE)
        assert soft == hard or soft >= 65_536


# HTTP/2


class Client:
    """One that speaks HTTP/2 without TLS, by prior knowledge."""

    def __init__(self, connection: socket.socket) -> None:
        settings = h2.config.H2Configuration(validate_outbound_headers=False)
        self.socket, self.h2 = connection, h2.connection.H2Connection(settings)
        self.h2.initiate_connection()
        self.send()

    def send(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def ask(self, path: str = "/health", method: str = "GET", end: bool = True) -> int:
        stream = self.h2.get_next_available_stream_id()
        headers = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "a")]
        headers.append(("content-type", "application/json"))
        self.h2.send_headers(stream, headers, end_stream=end)
        return stream

    def read(self, timeout_s: float = 5.0) -> list[h2.events.Event]:
        """What comes until the server closes, or nothing for so long."""
        self.socket.settimeout(timeout_s)
        events: list[h2.events.Event] = []
        with contextlib.suppress(TimeoutError, ConnectionError):
            while data := self.socket.recv(65536):
                events += self.h2.receive_data(data)
        return events


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with connect(server) as connection:
        yield Client(connection)


def check_calmed(events: list[h2.events.Event]) -> None:
    last = events[-1]
    assert isinstance(last, h2.events.ConnectionTerminated)
    assert last.error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM


def check_healthy(server: Server) -> None:
    assert server.get("/health").status_code == 200
    assert "a connection failed" not in server.log


def test_rapid_resets_end_the_connection(client: Client, server: Server) -> None:
    """CVE-2023-44487."""
    with contextlib.suppress(ConnectionError):
        for _ in range(3000):
            client.h2.reset_stream(client.ask())
            client.send()
    check_calmed(client.read())
    check_healthy(server)


@pytest.mark.parametrize("kind", ["ping", "settings", "priority", "empty"])
def test_frames_that_only_cost_time_end_the_connection(
    kind: str, client: Client, server: Server
) -> None:
    """CVE-2019-9512, -9515, -9518."""
    stream = client.ask("/v1/completions", "POST", end=False)
    frames = {
        "ping": hyperframe.frame.PingFrame(0, b"12345678"),
        "settings": hyperframe.frame.SettingsFrame(0, {1: 4096}),
        "priority": hyperframe.frame.PriorityFrame(101, depends_on=0, stream_weight=1),
        "empty": hyperframe.frame.DataFrame(stream, b""),
    }
    client.send()
    with contextlib.suppress(ConnectionError):
        for _ in range(50):
            client.socket.sendall(frames[kind].serialize() * 100)
            time.sleep(0.01)
    check_calmed(client.read())
    check_healthy(server)


def test_too_many_streams_at_once_are_refused(client: Client, server: Server) -> None:
    assert client.read(0.3)
    assert client.h2.remote_settings.max_concurrent_streams == 100
    client.h2.remote_settings[3] = 10_000
    client.h2.remote_settings.acknowledge()
    for _ in range(120):
        client.ask("/v1/completions", "POST", end=False)
    client.send()
    assert isinstance(client.read()[-1], h2.events.ConnectionTerminated)
    check_healthy(server)


def test_headers_without_end_are_refused(client: Client, server: Server) -> None:
    """CVE-2024-27316: frames that continue headers."""
    block = client.h2.encoder.encode(
        [(b":method", b"GET"), (b":path", b"/"), (b":scheme", b"http")]
    )
    first = hyperframe.frame.HeadersFrame(1, block)
    client.socket.sendall(first.serialize())
    more = hyperframe.frame.ContinuationFrame(1, b"").serialize()
    with contextlib.suppress(ConnectionError):
        for _ in range(200):
            client.socket.sendall(more)
    assert read(client.socket, 5).is_closed
    check_healthy(server)


def test_large_headers_are_refused(client: Client, server: Server) -> None:
    stream = client.h2.get_next_available_stream_id()
    headers = [(":method", "GET"), (":path", "/health"), (":scheme", "http"), (":authority", "a")]
    headers += [(f"x-{number}", "a" * 1000) for number in range(100)]
    client.h2.send_headers(stream, headers, end_stream=True)
    client.send()
    assert isinstance(client.read()[-1], h2.events.ConnectionTerminated)
    check_healthy(server)


def test_answer_before_the_end_of_a_body_keeps_the_connection(
    client: Client, server: Server
) -> None:
    """The rest of the body is dropped, and the client is told to stop."""
    stream = client.ask("/nowhere", "POST", end=False)
    client.h2.send_data(stream, b"a" * 1000)
    client.send()
    events = client.read(0.5)
    assert any(isinstance(each, h2.events.ResponseReceived) for each in events)
    assert isinstance(events[-1], h2.events.StreamReset)
    assert events[-1].error_code == h2.errors.ErrorCodes.NO_ERROR
    client.socket.sendall(hyperframe.frame.DataFrame(stream, b"a" * 1000).serialize())
    other = client.ask()
    client.send()
    events = client.read(0.5)
    assert any(
        isinstance(each, h2.events.ResponseReceived) and each.stream_id == other for each in events
    )
    check_healthy(server)


@pytest.mark.parametrize(
    ("path", "method"), [("/ö", "GET"), ("/health", "CONNECT"), ("/health", "GÖT"), ("", "GET")]
)
def test_invalid_requests_end(path: str, method: str, client: Client, server: Server) -> None:
    client.ask(path, method)
    client.send()
    ends = (h2.events.StreamReset, h2.events.ConnectionTerminated)
    assert isinstance(client.read(0.5)[-1], ends)
    check_healthy(server)


def test_many_requests_on_one_connection(client: Client) -> None:
    """There is no number after which a connection is closed."""
    seen = 0
    for _ in range(30):
        for _ in range(50):
            client.ask("/livez")
        client.send()
        while seen % 50 or not seen:
            events = client.h2.receive_data(client.socket.recv(65536))
            seen += sum(isinstance(each, h2.events.StreamEnded) for each in events)
            client.send()
        assert seen == 50
        seen = 0


def test_rolling_restart_loses_no_request_of_http2(launch: Launch) -> None:
    """Its connections are closed between two requests, so that the old frontend can end."""
    rolled = launch("--workers", "1", "--frontends", "1", step_s=0.01)
    (before,) = rolled.children("headrace.frontend.main")
    body = {"prompt": "hello", "max_tokens": 20, "ignore_eos": True}
    with httpx.Client(base_url=rolled.url, http1=False, http2=True, timeout=30) as client:
        assert client.post("/v1/completions", json=body).status_code == 200
        rolled.process.send_signal(signal.SIGHUP)
        ends_at, asked = time.monotonic() + 60, 0
        while before.is_running() and time.monotonic() < ends_at:
            answer = client.post("/v1/completions", json=body)
            assert answer.status_code == 200
            assert answer.json()["usage"]["completion_tokens"] == 20
            asked += 1
        assert not before.is_running()
        assert asked > 3
