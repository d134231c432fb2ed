"""A host whose /dev/shm is tiny and full, or absent."""

import subprocess
from pathlib import Path

import pytest

from headrace.launcher.models.prepare_model import PreparedModel
from tests.end_to_end.servers import Launch, Server

PRIVATE = "mount --make-rprivate / && "
SMALL = (
    "mount -t tmpfs -o size=1m tmpfs /dev/shm && (cat /dev/zero >/dev/shm/filler; true) 2>&- && "
)
# An empty folder over /dev, with links to the devices that every process needs.
ABSENT = (
    "mkdir -p $0/dev && mount --bind /dev $0/dev && mount -t tmpfs tmpfs /dev && "
    "for each in null zero full random urandom tty fd stdin stdout stderr; do "
    "ln -s $0/dev/$each /dev/$each; done && test ! -e /dev/shm && "
)


def serve_and_restart(server: Server) -> None:
    body = {"prompt": "hello", "max_tokens": 5}
    for _ in range(3):
        assert server.client.post("/v1/completions", json=body).status_code == 200
    server.children("headrace.workers.main")[0].kill()
    assert server.client.post("/v1/completions", json=body).status_code == 200
    assert server.stop() == 0
    assert "Traceback" not in server.log


def wrapper(folder: Path, commands: str) -> list[str]:
    script = f'{PRIVATE}{commands}exec "$@"'
    wrapper = ["unshare", "--mount", "sh", "-c", script, str(folder)]
    if subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    return wrapper


def test_a_full_one(launch: Launch, tmp_path: Path) -> None:
    serve_and_restart(launch("--workers", "2", wrapper=wrapper(tmp_path, SMALL)))


def test_workers_share_weights_without_one(prepared: PreparedModel, tmp_path: Path) -> None:
    """They are in unnamed memory files."""
    flags = ["--model", str(prepared.model_path), "--dtype", "float32", "--workers", "2"]
    flags += ["--max-model-len", "256", "--kv-cache-memory-bytes", "64MiB"]
    serve_and_restart(Server(flags, wrapper=wrapper(tmp_path, ABSENT)))
