"""Command lines as they are in public for the reference, and what the started server does."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.servers import Server

YAML = """
model: {model}
served_model_name: [first, second]
tensor-parallel-size: 1
max-model-len: 1k
enable-prefix-caching: true
disable-log-requests: true
structured-outputs-config:
  backend: xgrammar
override-generation-config:
  temperature: 0.0
"""
WORDS = """
--engine fake -dp 2 --api_server_count 1 --max_num_seqs=8 --gpu_memory_utilization 0.9
--trust-remote-code --enable-chunked-prefill --disable_log_stats -O3 --kv-cache-dtype auto
--compilation-config.cudagraph_mode NONE --enable-tokenizer-info-endpoint --scheduling-policy fcfs
--max-num-queued-reqs 64 --uvicorn-log-level warning --disable-fastapi-docs --load_format auto
--h11-max-header-count 20 --h11-max-incomplete-event-size 4096 --keep-alive-timeout 1
"""


@pytest.fixture(scope="module")
def server(
    fake_model: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    file = tmp_path_factory.mktemp("config") / "serve.yaml"
    file.write_text(YAML.format(model=fake_model))
    started = Server([*WORDS.split(), "--config", str(file)], cache_dir)
    yield started
    assert started.stop() == 0


def test_what_the_flags_ask_for(server: Server) -> None:
    models = server.get("/v1/models").json()["data"]
    assert [(model["id"], model["max_model_len"]) for model in models] == [
        ("first", 1000),
        ("second", 1000),
    ]
    (group,) = server.get("/health?verbose").json()["groups"]
    assert len(group["workers"]) == 2
    assert server.get("/docs").status_code == 404
    assert server.get("/tokenizer_info").status_code == 200
    with server.new_client() as client:
        headers = {f"X-{number}": "1" for number in range(30)}
        assert client.get("/health", headers=headers).status_code == 431
        answer = client.post("/v1/completions", json={"model": "second", "prompt": "Hello"})
    assert answer.json()["choices"][0]["text"]


def test_limits_of_connections(server: Server) -> None:
    with server.new_client() as client:
        assert client.get("/health", headers={"X-Long": "1" * 2000}).status_code == 200
        assert client.get("/health", headers={"X-Long": "1" * 10_000}).status_code in (400, 431)
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port or 0), timeout=30) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        while connection.recv(4096):  # until the server closes it, long before 75 s
            pass


@pytest.mark.parametrize(
    "flag",
    [
        "--enable-chunked-prefill",
        "--optimization-level",
        "--compilation-config",
        "--structured-outputs-config.backend",
        "--tensor-parallel-size",
    ],
)
def test_what_changes_nothing_has_one_line_in_the_log(server: Server, flag: str) -> None:
    assert server.log.count(f"{flag} changes nothing: ") == 1


def test_a_model_that_cannot_be_run_ends_with_a_status_of_its_own() -> None:
    flags = ["--port", "0", "--frontends", "1", "--dtype", "float16", "--cpu-kernels", "native"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "headrace", "serve", "--device", "cpu", *flags],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        timeout=120,
        check=False,
    )
    assert done.returncode == 78, done.stderr
    assert "no kernels for float16" in done.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--device", "cuda"], "--device: is cuda, but there is no GPU to use: "),
        (["--device=cuda", "--workers", "2"], "--device: is cuda, but there is no GPU to use: "),
        (["--device", "cuda:5"], "--device: must be 'auto', 'cpu' or 'cuda': 'cuda:5'"),
        (["--device", "mps"], "--device: must be 'auto', 'cpu' or 'cuda': 'mps'"),
        (["--device", "xpu"], "--device: must be 'auto', 'cpu' or 'cuda': 'xpu'"),
    ],
    ids=str,
)
@pytest.mark.parametrize("command", ["serve", "prepare"])
def test_a_device_that_is_not_there_starts_nothing(
    command: str, flags: list[str], said: str, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "headrace", command, *flags, "--run-dir", str(run_dir)],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"headrace: error: {said}")
    assert not run_dir.exists()


@pytest.mark.parametrize("given", ["file", "flag", "named"])
def test_a_template_that_does_not_compile_ends_the_start(
    fake_model: Path, cache_dir: Path, tmp_path: Path, given: str
) -> None:
    """Also one that only requests with tools use. No process is started for it."""
    folder, broken = tmp_path / "model", "{% for m in messages %}"
    shutil.copytree(fake_model, folder)
    flags = []
    if given == "file":
        (folder / "chat_template.jinja").write_text(broken)
    elif given == "flag":
        (tmp_path / "own.jinja").write_text(broken)
        flags = ["--chat-template", str(tmp_path / "own.jinja")]
    else:
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "tool_use.jinja").write_text(broken)
    command = ["serve", str(folder), "--engine", "fake", "--port", "0", *flags]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "headrace", *command],
        env=os.environ | {"HEADRACE_CACHE": str(cache_dir), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if "error" in line]
    assert len(errors) == 1
    assert done.stderr.splitlines()[-1] == errors[0]
    assert "line 1: " in errors[0]
