"""Pools that the modules of this folder share.

Starting one costs more than most tests: two seconds of CPU time with the fake engine, 15 with a
model. A test that kills a process needs a pool of its own.
"""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import certifi
import pytest

from headrace.launcher.models.prepare_model import PreparedModel, PrepareOptions, prepare_model
from tests.end_to_end.servers import Launch, Server

LAST_LOG_CHARS = 4000


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the processes wrote belongs to a failure: the next run may not show it again."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for server in Server.running:
            report.sections.append((f"log of {server.url}", server.log[-LAST_LOG_CHARS:]))
    return report


@pytest.fixture(scope="session", autouse=True)
def _one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let clients read one certificate: nothing here is encrypted, and with all of them a client of
    one request takes ten times as long as the request."""
    first, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----\n")
    file = tmp_path_factory.mktemp("certificates") / "one.pem"
    file.write_text(first + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(file))
        yield


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where prepared models are kept for the session. CI's machines begin with none."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def launch(fake_model: Path, cache_dir: Path) -> Iterator[Launch]:
    """Starts pools of the fake engine; all of them are stopped when the module ends."""
    started: list[Server] = []

    def start(
        *flags: str,
        step_s: float = 0.0,
        model: Path = fake_model,
        run_dir: Path | None = None,
        wrapper: Sequence[str] = (),
        cache_dir: Path = cache_dir,
        variables: dict[str, str] | None = None,
        key: str = "",
    ) -> Server:
        fake = ["--engine", "fake", "--fake-step-s", str(step_s)]
        every = ["--model", str(model), *fake, *flags]
        server = Server(every, cache_dir, run_dir, wrapper, variables, key)
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="package")
def fake_pool(fake_model: Path, cache_dir: Path) -> Iterator[Server]:
    """The fake engine, two frontends and two workers."""
    model = ["--model", str(fake_model), "--served-model-name", "fake", "alias"]
    pool = ["--engine", "fake", "--frontends", "2", "--workers", "2"]
    started = Server([*model, *pool, "--max-body-bytes", "1000000"], cache_dir)
    yield started
    assert started.stop() == 0


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedModel:
    """The default model, converted on a machine's first run."""
    return prepare_model(None, PrepareOptions(text_path=tmp_path_factory.mktemp("text")))


@pytest.fixture(scope="package")
def smol_pool(prepared: PreparedModel) -> Iterator[Server]:
    """The default model in float32, found by its folder; two frontends, two workers, and tools."""
    model = ["--model", str(prepared.model_path), "--served-model-name", "smol"]
    pool = ["--frontends", "2", "--workers", "2", "--enable-tokenizer-info"]
    pool += ["--enable-admin"]
    size = ["--dtype", "float32", "--max-model-len", "2048", "--kv-cache-memory-bytes", "512MiB"]
    tools = ["--tool-server", "demo", "--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    # As the server had them whose answers were recorded.
    sites = ["--allowed-origins", '["https://app.example"]', "--allow-credentials"]
    sites += ["--allowed-methods", '["GET", "POST"]']
    sites += ["--allowed-headers", '["content-type", "authorization"]']
    started = Server([*model, *pool, *size, *tools, *sites])
    yield started
    assert started.stop() == 0
