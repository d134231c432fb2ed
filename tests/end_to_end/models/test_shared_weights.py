"""Workers of a group share packed weights: what it saves, and what becomes of them when processes
sleep, wake, are replaced and die (the default model, in its file's blocks)."""

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import torch

from headrace.launcher.models.prepare_model import PreparedModel
from headrace.workers.native.library import unsupported_reason
from tests.end_to_end.servers import Server, kill_workers, wait_for
from tests.workers.native.test_shared_file import can_share

WEIGHTS = 90_000_000  # bytes of SmolLM2, in the blocks of its file
FLAGS = ["--max-model-len", "1024", "--kv-cache-memory-bytes", "64MiB"]
POOL = ["--workers", "2", "--frontends", "1", "--enable-admin"]
KERNELS_LACK = unsupported_reason(torch.float32)  # only packed weights are shared, which they read
needs_sharing = pytest.mark.skipif(
    bool(KERNELS_LACK) or not can_share(),
    reason=f"nothing is shared: {KERNELS_LACK or 'no huge pages of memory files here'}",
)


@pytest.fixture
def server(prepared: PreparedModel) -> Iterator[Server]:
    started = Server(["--model", str(prepared.model_path), *FLAGS, *POOL])
    wait_for(lambda: ready(started) == 2, "both are ready", 60)
    yield started
    started.stop()


def ready(server: Server) -> int:
    return sum(group["ready"] for group in server.get("/health?verbose").json()["groups"])


def ask(server: Server) -> str:
    body = {"prompt": "The sea is", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
    with server.new_client() as client:
        answer = client.post("/v1/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["text"]
    return text


def post(server: Server, path: str) -> None:
    assert httpx.post(f"{server.url}{path}", timeout=120).status_code == 200


def workers(server: Server) -> list[psutil.Process]:
    return server.children("headrace.workers.main")


def mapped(process: psutil.Process) -> dict[str, int]:
    """Bytes of a worker's shared weights: `size`, `huge`, `pss_of`."""
    folder = Path(f"/proc/{process.pid}")
    weights = (folder / "smaps").read_text().partition("/memfd:headrace-weights-")[2]
    fields = {
        "size": (weights, "Size"),
        "huge": (weights, "ShmemPmdMapped"),
        "pss_of": (weights, "Pss"),
    }
    found = {name: re.search(rf"\n{field}: +(\d+) kB", text) for name, (text, field) in
             fields.items()}  # fmt: skip
    return {name: int(each[1]) * 1024 if each else 0 for name, each in found.items()}


def memory_file(server: Server) -> os.stat_result:
    """The pool's, as the launcher has it open: there is one group."""
    found = []
    for each in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if "headrace-weights-" in os.readlink(each):
                found.append(each.stat())
    (one,) = found
    return one


def file_bytes(server: Server) -> int:
    return memory_file(server).st_blocks * 512


def holders(inode: int) -> set[str]:
    """The processes that have a memory file open or mapped: without any, it is gone."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if re.search(rf":\d+ {inode} +/memfd:", (folder / "maps").read_text()):
                found.add(folder.name)
            if any(_opens(each, inode) for each in (folder / "fd").iterdir()):
                found.add(folder.name)
    return found


def _opens(link: Path, inode: int) -> bool:
    with contextlib.suppress(OSError):
        return os.readlink(link).startswith("/memfd:") and link.stat().st_ino == inode
    return False


@needs_sharing
def test_weights_are_there_once_and_workers_come_back_to_them(server: Server) -> None:
    text = ask(server)
    found = [mapped(each) for each in workers(server)]
    assert all(each["size"] == each["huge"] > WEIGHTS for each in found), found
    assert all(each["pss_of"] < 0.6 * each["size"] for each in found), found
    assert re.search("weights in q8_0, q4_1, shared$", server.log, re.MULTILINE)

    post(server, "/sleep?level=2")
    assert file_bytes(server) == 0
    assert [mapped(each)["size"] for each in workers(server)] == [0, 0]
    post(server, "/wake_up")
    assert file_bytes(server) > WEIGHTS
    assert ask(server) == text

    workers(server)[0].kill()
    wait_for(lambda: ready(server) < 2, "one is missed")
    wait_for(lambda: ready(server) == 2, "it is replaced", 60)
    assert all(each["size"] for each in map(mapped, workers(server)))
    packed = server.log.count("in q8_0, q4_1, shared\n")
    kill_workers(server)  # both: what they have left is used
    assert server.log.count("in q8_0, q4_1, shared\n") == packed
    assert [ask(server) for _ in range(4)] == [text] * 4


@needs_sharing
def test_rolling_restart_takes_another_file(server: Server) -> None:
    text = ask(server)
    before = {each.pid for each in workers(server)}
    packed = server.log.count("in q8_0, q4_1, shared\n")
    server.process.send_signal(signal.SIGHUP)
    wait_for(
        lambda: ready(server) == 2 and not before & {each.pid for each in workers(server)},
        "both are replaced", 120,
    )  # fmt: skip
    assert server.log.count("in q8_0, q4_1, shared\n") == packed + 1
    assert file_bytes(server) > WEIGHTS
    assert [ask(server) for _ in range(4)] == [text] * 4


@needs_sharing
def test_last_one_awake_is_scaled_away(server: Server) -> None:
    text = ask(server)
    post(server, "/sleep?level=2&worker=default-0")
    assert file_bytes(server) > WEIGHTS
    body = {"new_data_parallel_size": 1}
    httpx.post(f"{server.url}/scale_elastic_ep", json=body, timeout=120).raise_for_status()
    wait_for(lambda: file_bytes(server) == 0, "the memory is given back")
    assert ask(server) == text  # wakes the other


@needs_sharing
def test_nothing_stays_when_the_launcher_is_killed(server: Server) -> None:
    inode, held = memory_file(server).st_ino, workers(server)
    assert holders(inode) == {str(each) for each in (server.process.pid, *(w.pid for w in held))}
    server.process.kill()
    wait_for(lambda: not holders(inode), "nobody has the file", 30)


@pytest.mark.skipif(not KERNELS_LACK, reason="the compiled kernels run here, and share")
def test_without_kernels_nothing_is_shared_and_the_log_says_why(server: Server) -> None:
    assert ask(server)
    assert server.log.count(f"torch's operations: {KERNELS_LACK}\n") == len(workers(server))
    assert file_bytes(server) == 0
    assert [mapped(each)["size"] for each in workers(server)] == [0, 0]
