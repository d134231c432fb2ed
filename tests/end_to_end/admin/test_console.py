"""Operators' tools on a real pool, as they are run from a shell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.servers import Launch, Server, wait_for

ROOT = Path(__file__).parents[3]


ADMIN, USER = "admin-key-of-pool", "user-key-of-pool"


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    keys = {"HEADRACE_ADMIN_KEY": ADMIN, "HEADRACE_API_KEY": USER}
    flags = ["--workers", "2", "--frontends", "2", "--enable-admin", "--enable-lora"]
    return launch(*flags, variables=keys, key=ADMIN)


def run(command: list[str], url: str, status: int = 0, **keys: str) -> str:
    keys = keys or {"HEADRACE_ADMIN_KEY": ADMIN}
    environment = os.environ | {"HEADRACE_URL": url, "PYTHON": sys.executable} | keys
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def pool(server: Server, *words: str, status: int = 0) -> str:
    return run([str(ROOT / "scripts" / "pool.sh"), *words], server.url, status)


def states(server: Server) -> list[str]:
    workers = server.get("/is_sleeping?verbose").json()["workers"]
    return [each["state"] for each in workers]


def test_one_frame(server: Server) -> None:
    top = [str(Path(sys.executable).with_name("headrace")), "top", "--once"]
    text = run(top, server.url)
    for part in ("ready", "default-0.0", "default-1.0", "frontend-0.0", "restarts"):
        assert part in text
    assert "does not answer" in run(top, "http://127.0.0.1:1", status=1)


def test_the_key_decides(server: Server) -> None:
    top = [str(Path(sys.executable).with_name("headrace")), "top", "--once"]
    script = [str(ROOT / "scripts" / "pool.sh")]
    assert "default-0.0" in run(top, server.url, HEADRACE_API_KEY=USER)
    assert "default-0.0" in run([*script, "status"], server.url, HEADRACE_API_KEY=USER)
    resume = [*script, "resume"]
    assert "done" in run(resume, server.url, HEADRACE_ADMIN_KEY=ADMIN, HEADRACE_API_KEY=USER)
    for key in ("", "wrong"):
        told = run(top, server.url, status=1, HEADRACE_API_KEY=key)
        assert "HEADRACE_API_KEY" in told
        told = run([*script, "status"], server.url, status=1, HEADRACE_API_KEY=key)
        assert "a valid key is needed" in told
    told = run([*script, "resume"], server.url, status=1, HEADRACE_API_KEY=USER)
    assert "needs an admin key" in told


def test_a_pool_is_operated(server: Server) -> None:
    assert "default-1.0" in pool(server, "status")
    assert "asleep" in pool(server, "sleep", "2")
    assert states(server) == ["asleep", "asleep"]
    pool(server, "wake")
    pool(server, "drain", "default-1")
    assert states(server) == ["ready", "asleep"]
    pool(server, "wake", "worker=default-1")
    pool(server, "pause", "keep")
    assert "paused" in pool(server, "status")
    pool(server, "resume")
    assert server.get("/is_paused").json() == {"is_paused": False}


def test_a_pool_is_scaled(server: Server) -> None:
    text = pool(server, "scale", "3")
    assert "Scaled to 3" in text
    assert "default-2.0" in text
    assert "default-2" not in pool(server, "scale", "2", "model=fake")
    assert "new_data_parallel_size" in pool(server, "scale", "0", status=1)
    assert "usage" in pool(server, "scale", "many", status=2)


def test_adapters_come_and_go(server: Server, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    assert "'a \"b\"' added" in pool(server, "load", 'a "b"', str(tmp_path))
    assert 'a "b"' in pool(server, "models")
    assert "already been loaded" in pool(server, "load", 'a "b"', str(tmp_path), status=1)
    assert "removed" in pool(server, "unload", 'a "b"', "timeout=9")
    assert 'a "b"' not in pool(server, "models")


def test_what_cannot_be_is_told(server: Server) -> None:
    assert "level" in pool(server, "sleep", "7", status=1)
    assert "no such worker" in pool(server, "drain", "nobody", status=1)
    assert "usage" in pool(server, "dance", status=2)
    assert "no launcher" in pool(server, "reload", str(os.getpid()), status=1)
    assert "no launcher" in pool(server, "reload", str(ROOT), status=1)


@pytest.mark.parametrize("by_pid", [True, False])
def test_a_pool_is_reloaded(server: Server, by_pid: bool) -> None:
    before = {each.pid for each in server.children("headrace.workers.main")}
    pool(server, "reload", str(server.process.pid) if by_pid else str(server.run_dir))
    wait_for(
        lambda: before.isdisjoint(each.pid for each in server.children("headrace.workers.main")),
        "replaced",
        timeout_s=60,
    )
    wait_for(lambda: states(server) == ["ready", "ready"], "ready", timeout_s=60)
