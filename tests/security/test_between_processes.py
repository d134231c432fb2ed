"""What connects to a pool's own sockets harms nobody, and other users cannot connect.

CVE-2024-9053 (GHSA-cj47-qj6g-x7r4): an RPC server that unpickles what it receives.
CVE-2025-30202 (GHSA-9f8f-2vmf-885j): a publisher on all interfaces, which a slow reader blocks.

Each test attaches to the sockets of a live pool as the pool's own user, whose rights suffice to
kill the pool in any case: what is shown is that nothing which arrives there is executed, that no
process ends, and that requests are answered meanwhile.
"""

import os
import pickle
import secrets
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import AF_UNIX
from socket import socket as unix_socket
from typing import Any

import msgspec
import psutil
import pytest
import zmq

from headrace.protocol import PROTOCOL_VERSION, sockets, to_coordinator, to_worker
from headrace.protocol.calls import CallTarget, Pause
from headrace.protocol.codec import MAX_MESSAGE_BYTES
from headrace.protocol.state import WorkerLoad
from headrace.protocol.to_worker import Abort
from tests.end_to_end.servers import Server, wait_for

ROUTERS = ("control", "worker")
TCP_LISTEN = "0A"


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._path, "w")


@pytest.fixture(scope="module")
def server(fake_model: Path, cache_dir: Path) -> Iterator[Server]:
    """A pool that an operator with the most careless umask has started."""
    before = os.umask(0o000)
    try:
        flags = ["--engine", "fake", "--frontends", "2", "--workers", "2", "--enable-lora"]
        started = Server(["--model", str(fake_model), *flags], cache_dir)
    finally:
        os.umask(before)
    yield started
    assert started.stop() == 0


@pytest.fixture
def unharmed(server: Server) -> Iterator[None]:
    """Check that no process ends or grows, and that the pool serves afterwards."""
    complete(server)
    before = {each.pid: each.memory_info().rss for each in server.children()}
    yield
    complete(server)
    time.sleep(0.5)  # an ending takes its course
    assert {each.pid for each in server.children()} == set(before)
    groups = server.get("/health?verbose").json()["groups"]
    assert [group["ready"] for group in groups] == [2]
    for process in server.children():
        assert process.memory_info().rss < before[process.pid] + (300 << 20)


def complete(server: Server) -> None:
    for _ in range(4):  # each frontend takes some of them
        with server.new_client() as client:
            body = {"prompt": "Hello", "max_tokens": 5, "ignore_eos": True}
            answer = client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text


def socket_files(server: Server) -> list[Path]:
    found = [path for path in server.run_dir.rglob("*") if path.is_socket()]
    assert {path.name for path in found} == {"control", "state", "default-0.0", "default-1.0"}
    return found


@contextmanager
def peer(path: Path, kind: int = zmq.DEALER, identity: bytes = b"") -> Iterator[Any]:
    """A socket that is connected to one of the pool's."""
    with zmq.Context() as context, context.socket(kind) as socket:
        socket.setsockopt(zmq.LINGER, 500)
        socket.setsockopt(zmq.SNDTIMEO, 5000)
        if identity:
            socket.setsockopt(zmq.IDENTITY, identity)
        socket.connect(f"ipc://{path}")
        yield socket


def send_everywhere(server: Server, messages: list[bytes]) -> None:
    for path in socket_files(server):
        # One that may send what it likes to a publisher.
        kind = zmq.XSUB if path.name == "state" else zmq.DEALER
        with peer(path, kind, secrets.token_hex(4).encode()) as socket:
            for message in messages:
                socket.send(message)
                if kind == zmq.DEALER:
                    socket.send_multipart([b"", message])
                    socket.send_multipart([message, message, message])


@pytest.mark.usefixtures("unharmed")
def test_pickles_are_dropped(server: Server, tmp_path: Path) -> None:
    """CVE-2024-9053: nothing in them runs, whatever protocol they are written in."""
    canary = tmp_path / "canary"
    bodies = [
        pickle.dumps(Canary(canary), protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ]
    pickle.loads(bodies[0]).close()
    assert canary.exists(), "the canary does not sing"
    canary.unlink()
    wrapped = [msgspec.msgpack.encode([1, body, {"a": body}]) for body in bodies]
    send_everywhere(server, [*bodies, *wrapped])
    with server.new_client() as client:
        for kind in ("json", "octet-stream", "x-pickle"):
            answer = client.post(
                "/v1/completions",
                content=bodies[-1],
                headers={"Content-Type": f"application/{kind}"},
            )
            assert 400 <= answer.status_code < 500
    complete(server)
    assert not canary.exists()


@pytest.mark.usefixtures("unharmed")
def test_garbage_is_dropped(server: Server) -> None:
    deep = b"\x91" * 100_000
    claims = [
        kind + size
        for kind in (b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9")
        for size in (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x04\x00\x00\x00")
    ]
    inner = [b"\x93\x01" + claim for claim in claims]
    noise = [secrets.token_bytes(size) for size in (0, 1, 10, 1000, 100_000)]
    send_everywhere(server, [b"", b"\xc1", b"null", deep, *claims, *inner, *noise])


@pytest.mark.usefixtures("unharmed")
def test_a_flood_holds_up_nothing(server: Server) -> None:
    """What arrives without end leaves heartbeats and requests their turn; the log stays short."""
    before = len(server.log)
    end = time.monotonic() + 4.0
    worker = server.run_dir / "default-0.0"
    with peer(server.run_dir / "control") as control, peer(worker) as requests:
        while time.monotonic() < end:
            for socket in (control, requests):
                for _ in range(2000):
                    try:
                        socket.send(b"\xc1 garbage", zmq.NOBLOCK)
                    except zmq.Again:
                        break
    assert len(server.log) - before < 100_000


@pytest.mark.usefixtures("unharmed")
def test_oversized_frames_are_not_read(server: Server) -> None:
    """Neither what is too large, nor what only claims to be: the connection is closed."""
    message = bytes(MAX_MESSAGE_BYTES + 1)
    for path in socket_files(server):
        with peer(path, zmq.XSUB if path.name == "state" else zmq.DEALER) as socket:
            socket.send(message)
        claim_frame(path, 1 << 62)


def claim_frame(path: Path, size: int) -> None:
    """Greet as a peer does, and claim a frame of so many bytes."""
    with unix_socket(AF_UNIX) as raw:
        raw.settimeout(5)
        raw.connect(str(path))
        raw.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + bytes(1 + 31))
        kind = b"SUB" if path.name == "state" else b"DEALER"
        ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
        raw.sendall(b"\x04" + bytes([len(ready)]) + ready)
        raw.sendall(b"\x02" + struct.pack(">Q", size) + b"x")
        while raw.recv(4096):  # until it is closed
            pass


@pytest.mark.usefixtures("unharmed")
def test_a_worker_that_was_not_started_is_not_taken(server: Server) -> None:
    load = WorkerLoad(0, 0, 0.0, 0, 0.0)
    endpoint = "ipc:///nowhere/at/all"
    strangers = ("default-0.7", "default-9.0", "nonsense", "")
    for worker_id in strangers:
        hello = to_coordinator.WorkerHello(
            PROTOCOL_VERSION, worker_id, "default", 1, endpoint, "ready"
        )
        totals = to_coordinator.WorkerTotals(0, 0, 0, 0)
        messages: list[to_coordinator.ControlMessage] = [
            hello,
            to_coordinator.WorkerHeartbeat(worker_id, load, totals),
            to_coordinator.WorkerFailed(worker_id, "x"),
            to_coordinator.WorkerDraining(worker_id),
        ]
        greet(server, worker_id, messages)
    published = server.get("/health?verbose").json()["groups"][0]["workers"]
    assert len(published) == 2
    assert "/nowhere" not in server.get("/health?verbose").text


@pytest.mark.usefixtures("unharmed")
def test_nobody_speaks_for_another(server: Server) -> None:
    """Not for a worker or a frontend that runs, nor for the launcher."""
    frontends = [f"frontend-{number}.0" for number in range(2)]
    messages: list[to_coordinator.ControlMessage] = [
        to_coordinator.WorkerHello(
            PROTOCOL_VERSION, "default-0.0", "default", 1, "ipc:///nowhere", "ready"
        ),
        to_coordinator.WorkerDraining("default-0.0"),
        to_coordinator.WorkerFailed("default-0.0", "x"),
        to_coordinator.LauncherHello(PROTOCOL_VERSION, (), (), ()),
        to_coordinator.ChildExited("default-0.0", "worker", 1),
        to_coordinator.ChildExited(frontends[0], "frontend", 1),
        to_coordinator.FrontendStarted("frontend-77.0"),
        to_coordinator.FrontendHello(PROTOCOL_VERSION, frontends[0], 1),
        to_coordinator.FrontendHello(PROTOCOL_VERSION, "frontend-78.0", 1),
        to_coordinator.PoolCall("1", frontends[0], Pause(), CallTarget(), 5.0),
        to_coordinator.PoolCall("1", "stranger", Pause(), CallTarget(), 5.0),
        to_coordinator.WakeRequest("default"),
    ]
    for version in (PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1, -1, 2**62):
        hello = to_coordinator.FrontendHello(version, "stranger", 1)
        messages.append(hello)
    greet(server, "stranger", messages)
    greet(server, "frontend-78.0", messages)
    shown = server.get("/health?verbose").text
    assert "frontend-7" not in shown
    assert "/nowhere" not in shown


@pytest.mark.usefixtures("unharmed")
def test_a_stranger_cannot_end_anothers_request(server: Server) -> None:
    with server.new_client() as client:
        body = {"prompt": "Hello", "max_tokens": 200, "ignore_eos": True, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            first = next(line for line in lines if line.startswith("data: "))
            request_id = msgspec.json.decode(first.removeprefix("data: "))["id"]
            ids = (request_id, f"{request_id}-0", request_id.partition("-")[2])
            for path in socket_files(server):
                if path.name.startswith("default-"):
                    with peer(path, identity=b"stranger") as socket:
                        socket.send(to_worker.REQUESTS.encode(Abort(ids)))
            rest = [line for line in lines if line.startswith("data: ")]
        assert rest[-1] == "data: [DONE]"
        assert len(rest) > 150


@pytest.mark.usefixtures("unharmed")
def test_silent_subscribers_and_peers_cost_little(server: Server) -> None:
    """CVE-2025-30202: who reads nothing blocks nobody, and is kept few messages for."""
    (coordinator,) = server.children("headrace.coordinator.main")
    with zmq.Context() as context:
        silent = []
        for number in range(30):
            socket = context.socket(zmq.SUB)
            socket.setsockopt(zmq.RCVHWM, 1)
            socket.setsockopt(zmq.SUBSCRIBE, b"")
            socket.connect(sockets.state_endpoint(server.run_dir))
            silent.append(socket)
            control = context.socket(zmq.DEALER)
            control.setsockopt(zmq.RCVHWM, 1)
            control.setsockopt(zmq.IDENTITY, b"silent%d" % number)
            control.connect(sockets.control_endpoint(server.run_dir))
            silent.append(control)
        before = coordinator.memory_info().rss
        end = time.monotonic() + 4.0
        while time.monotonic() < end:
            complete(server)
        grown = coordinator.memory_info().rss - before
        for socket in silent:
            socket.close(linger=0)
    assert grown < 40 << 20


def test_the_publisher_keeps_few_states_for_each_subscriber(tmp_path: Path) -> None:
    """Of 20,000 that nobody reads, hundreds at most are kept."""
    context = zmq.Context()
    publisher = sockets.publisher(context, sockets.state_endpoint(tmp_path))
    subscriber = context.socket(zmq.SUB)
    subscriber.setsockopt(zmq.RCVHWM, 1)
    subscriber.setsockopt(zmq.SUBSCRIBE, b"")
    subscriber.connect(sockets.state_endpoint(tmp_path))
    time.sleep(0.3)
    process = psutil.Process()
    before = process.memory_info().rss
    for number in range(5000):
        publisher.send(b"%d " % number + bytes(20_000))
    grown = process.memory_info().rss - before
    context.destroy(linger=0)
    assert grown < 30 << 20


def greet(server: Server, identity: str, messages: list[to_coordinator.ControlMessage]) -> None:
    """Send messages to the coordinator under an identity, and give it time to act on them."""
    with peer(server.run_dir / "control", identity=identity.encode()) as socket:
        for message in messages:
            socket.send(to_coordinator.CONTROL.encode(message))
        time.sleep(1.0)


def test_other_users_reach_nothing(server: Server) -> None:
    """The run directory, its sockets and its files are the owner's alone, though umask was 0."""
    complete(server)
    wait_for(lambda: any(server.run_dir.rglob("*.db")), "metrics")
    found = [server.run_dir, *server.run_dir.rglob("*")]
    assert len(found) > 10
    for path in found:
        status = path.lstat()
        assert status.st_uid == os.geteuid()
        assert stat.S_IMODE(status.st_mode) & 0o077 == 0, path
    assert stat.S_IMODE(server.run_dir.stat().st_mode) == 0o700
    for path in socket_files(server):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


OTHER_USER = 65534  # nobody
PEER = """
import os, sys, zmq
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
context = zmq.Context()
socket = context.socket(zmq.DEALER)
socket.setsockopt(zmq.LINGER, 1000)
socket.connect(sys.argv[1])
socket.send(b"from another user")
socket.close()
context.term()  # waits until it is sent
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_the_kernel_tells_who_connects() -> None:
    """Another user's messages are dropped even where the modes of directory and file let it in."""
    with tempfile.TemporaryDirectory() as folder, zmq.Context() as context:
        path = Path(folder) / "socket"
        with sockets.router(context, f"ipc://{path}") as router:
            Path(folder).chmod(0o777)
            path.chmod(0o777)
            for user, is_heard in ((0, True), (OTHER_USER, False)):
                command = [sys.executable, "-c", PEER, f"ipc://{path}", str(user)]
                subprocess.run(command, check=True, timeout=30)
                assert bool(router.poll(500)) == is_heard, user
                if is_heard:
                    assert router.recv_multipart()[-1] == b"from another user"


def test_only_http_listens(server: Server) -> None:
    """No process of the pool has another socket of the network, whatever its protocol."""
    port = int(server.url.rpartition(":")[2])
    launcher = psutil.Process(server.process.pid)
    processes = [launcher, *launcher.children(recursive=True)]
    assert len(processes) >= 6
    inodes = set()
    for process in processes:
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            try:
                target = os.readlink(link)
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    listening = set()
    for table in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        path = Path(f"/proc/{server.process.pid}/net/{table}")
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if fields[9] in inodes and (fields[3] == TCP_LISTEN or not table.startswith("tcp")):
                host, _, number = fields[1].rpartition(":")
                listening.add((table, host, int(number, 16)))
    assert listening == {("tcp", "0100007F", port)}
