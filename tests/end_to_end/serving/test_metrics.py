"""The pool's metrics, whichever of two frontends is asked and whatever dies (fake engine)."""

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import psutil
import pytest

from tests.end_to_end.servers import Launch, Server, wait_for

Numbers = dict[str, float]


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    flags = ("--frontends", "2", "--workers", "2", "--log-stats-interval", "0.5")
    return launch(*flags, step_s=0.01)


def complete(server: Server, max_tokens: int = 5, prompt: str = "hello " * 20) -> int:
    """The status; 0 if the connection broke."""
    request = {"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True}
    with contextlib.suppress(httpx.HTTPError):
        answer = httpx.post(f"{server.url}/v1/completions", json=request, timeout=60)
        return answer.status_code
    return 0


@contextlib.contextmanager
def load(server: Server, max_tokens: int) -> Iterator[list[Future[int]]]:
    """Eight requests that run."""
    with ThreadPoolExecutor(8) as threads:
        requests = [threads.submit(complete, server, max_tokens) for _ in range(8)]
        wait_for(lambda: server.metric("headrace:num_requests_running") == 8, "all run")
        yield requests


class Scrapes(contextlib.ExitStack):
    """A kept connection to each frontend, and the greatest values that any of them has reported."""

    def __init__(self, server: Server, greatest: Numbers | None = None) -> None:
        super().__init__()
        self.greatest: Numbers = greatest or {}
        self._clients: dict[int, httpx.Client] = {}
        frontends = {process.pid: process for process in server.children("headrace.frontend.main")}
        deadline = time.monotonic() + 20
        while len(self._clients) < len(frontends):
            assert time.monotonic() < deadline
            client = self.enter_context(httpx.Client(base_url=server.url))
            client.get("/livez")
            self._clients.setdefault(_whom(client, frontends), client)

    def all(self) -> list[Numbers]:
        """The metrics of each frontend, one after the other; no counter may have decreased."""
        scraped = [_numbers(client.get("/metrics").text) for client in self._clients.values()]
        for numbers in scraped:
            self.check(numbers)
        return scraped

    def check(self, numbers: Numbers) -> None:
        for name, greatest in self.greatest.items():
            assert numbers.get(name, -1) >= greatest, name
        for name, value in numbers.items():
            if re.match(r"\S+_(total|count|sum|bucket)\b", name):
                self.greatest[name] = value

    def agree(self) -> bool:
        one, other = (_without_scrapes(numbers) for numbers in self.all())
        return one == other


@pytest.fixture
def scrapes(server: Server) -> Iterator[Scrapes]:
    with Scrapes(server) as scrapes:
        yield scrapes


def _whom(client: httpx.Client, frontends: dict[int, psutil.Process]) -> int:
    """The frontend at the other end of a client's connection."""
    (connection,) = client._transport._pool.connections  # type: ignore[attr-defined]
    port = connection._connection._network_stream.get_extra_info("client_addr")[1]
    for pid, process in frontends.items():
        if any(each.raddr and each.raddr.port == port for each in process.net_connections()):
            return pid
    raise AssertionError("nobody is at the other end")


def _numbers(text: str) -> Numbers:
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def _without_scrapes(numbers: Numbers) -> Numbers:
    """Asking for metrics changes these."""
    return {name: value for name, value in numbers.items() if 'handler="/metrics"' not in name}


def _files_of_the_dead(server: Server) -> list[str]:
    alive = {str(process.pid) for process in server.children()}
    files = (server.run_dir / "metrics").glob("*.db")
    return [file.name for file in files if file.stem.rpartition("_")[2] not in alive]


def series(numbers: Numbers, name: str, **labels: str) -> Numbers:
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return {
        key: value
        for key, value in numbers.items()
        if key.partition("{")[0] == f"headrace:{name}" and all(each in key for each in wanted)
    }


def test_all_frontends_tell_the_same_of_everything(server: Server, scrapes: Scrapes) -> None:
    complete(server, prompt="")  # rejected
    with load(server, max_tokens=150) as requests:
        while not all(request.done() for request in requests):
            numbers = scrapes.all()[-1]
            assert set(series(numbers, "worker_state", state="ready").values()) == {1}
            time.sleep(0.02)
        assert {request.result() for request in requests} == {200}
    wait_for(scrapes.agree, "they agree")
    numbers = scrapes.all()[0]
    rejected = sum(series(numbers, "requests_refused_total", reason="invalid").values())
    assert rejected == 1
    starts = series(numbers, "worker_start_seconds", phase="imports")
    assert len(starts) == 2
    assert all(0 < seconds < 60 for seconds in starts.values())
    assert server.log.count("ready after ") == 3, "two workers, and the pool"
    for name in (
        "time_to_first_token_seconds",
        "request_queue_time_seconds",
        "request_prefill_time_seconds",
        "request_decode_time_seconds",
        "e2e_request_latency_seconds",
    ):
        assert sum(series(numbers, f"{name}_count").values()) == 8, name
    assert sum(series(numbers, "inter_token_latency_seconds_count").values()) > 8
    for name in ("kv_cache_usage_perc", "num_requests_waiting", "engine_step_age_seconds"):
        wait_for(lambda: [*series(scrapes.all()[0], name).values()] == [0, 0], name)  # noqa: B023
    for name in ("engine_step_seconds_count", "prefix_cache_queries_total"):
        assert sum(series(numbers, name).values()) > 0, name


def test_who_has_an_answer_sees_no_request_run(server: Server) -> None:
    """Otherwise whole seconds of a scrape's interval would be reported for an empty batch."""
    wait_for(lambda: server.metric("headrace:num_requests_running") == 0, "nothing runs")
    for _ in range(4):  # long enough for a heartbeat to tell of it meanwhile
        assert complete(server, 60) == 200
        assert server.metric("headrace:num_requests_running") == 0


def test_tenants_tokens_are_summed_over_frontends(server: Server, scrapes: Scrapes) -> None:
    fields = {"prompt": "hello", "max_tokens": 5, "ignore_eos": True, "user": "ann"}
    for _ in range(6):  # connections of their own, so that each frontend gets some
        httpx.post(f"{server.url}/v1/completions", json=fields, timeout=60).raise_for_status()
    wait_for(scrapes.agree, "they agree")
    numbers = scrapes.all()[0]
    hers = series(numbers, "tenant_tokens_total", tenant="ann")
    assert sum(series(hers, "tenant_tokens_total", kind="generation").values()) == 30
    assert sum(series(hers, "tenant_tokens_total", kind="prompt").values()) > 0
    everyone = sum(series(numbers, "tenant_tokens_total", kind="generation").values())
    assert everyone == sum(series(numbers, "generation_tokens_total").values())


def test_worker_that_dies_takes_its_gauges_along_and_nothing_else(
    server: Server, scrapes: Scrapes
) -> None:
    with load(server, max_tokens=150) as requests:
        scrapes.all()
        victim = server.children("headrace.workers.main")[0]
        name = victim.cmdline()[victim.cmdline().index("--worker-id") + 1]
        engine = name.rpartition("-")[2].partition(".")[0]
        victim.suspend()  # so that its gauges would stay as they are
        victim.kill()
        victim.wait(10)

        def is_gone() -> bool:
            scraped = scrapes.all()
            states = series(scraped[0], "worker_state", engine=engine, state="ready")
            running = series(scraped[0], "num_requests_running", engine=engine)
            return set(states.values()) == {0} and not sum(running.values())

        wait_for(is_gone, "its gauges are gone")
        while not all(request.done() for request in requests):
            scrapes.all()
            time.sleep(0.05)
        assert {request.result() for request in requests} == {200}
    numbers = scrapes.all()[0]
    assert sum(series(numbers, "request_replays_total").values()) > 0
    assert sum(series(numbers, "worker_restarts_total", engine=engine).values()) == 1
    wait_for(
        lambda: set(series(scrapes.all()[0], "worker_state", state="ready").values()) == {1},
        "another is there",
    )
    wait_for(scrapes.agree, "they agree")


def test_nothing_goes_back_when_frontends_and_the_coordinator_die(
    server: Server, scrapes: Scrapes
) -> None:
    with load(server, max_tokens=150) as requests:
        scrapes.all()
        frontends = server.children("headrace.frontend.main")
        for victim in (frontends[0], *server.children("headrace.coordinator.main")):
            victim.kill()
        statuses = {request.result() for request in requests}
    assert statuses == {0, 200}
    wait_for(lambda: len(server.children("headrace.frontend.main")) == 2, "another frontend")
    wait_for(lambda: len(server.children("headrace.coordinator.main")) == 1, "another coordinator")
    with Scrapes(server, scrapes.greatest) as after:

        def is_at_rest() -> bool:
            numbers = after.all()[0]
            ready = series(numbers, "worker_state", state="ready")
            gauges = series(numbers, "server_load") | series(numbers, "num_requests_running")
            return list(ready.values()) == [1, 1] and not sum(gauges.values())

        wait_for(is_at_rest, "the dead one's requests are no load")
        wait_for(after.agree, "they agree")
        assert complete(server) == 200
        after.all()
    assert not _files_of_the_dead(server)


def test_crash_loop_leaves_numbers_and_no_files(server: Server, scrapes: Scrapes) -> None:
    def restarted() -> float:
        return sum(series(scrapes.all()[0], "worker_restarts_total").values())

    restarts = restarted()
    for count in range(1, 5):
        victim = server.children("headrace.workers.main")[-1]
        victim.kill()
        wait_for(lambda: not victim.is_running(), "it has ended")  # noqa: B023
        wait_for(lambda: restarted() == restarts + count, "another is started")  # noqa: B023
        wait_for(lambda: len(server.children("headrace.workers.main")) == 2, "it runs")
    assert not _files_of_the_dead(server)
    wait_for(
        lambda: set(series(scrapes.all()[0], "worker_state", state="ready").values()) == {1},
        "both are ready",
    )


def test_the_log_tells_of_work_and_is_silent_at_rest(server: Server) -> None:
    def lines() -> list[str]:
        return [line for line in server.log.splitlines() if "Avg generation throughput" in line]

    with load(server, max_tokens=150):
        wait_for(lambda: any("Running: 8 reqs" in line for line in lines()), "it says so")
    wait_for(lambda: "throughput: 0.0 tokens/s, Running: 0" in lines()[-1], "and of rest")
    said = len(lines())
    time.sleep(1.2)
    assert len(lines()) == said
    assert all(" coordinator " in line for line in lines())


# What the reference's published Grafana boards and gateways in front of it ask for.
BOARD_NAMES = """
    e2e_request_latency_seconds_bucket e2e_request_latency_seconds_count
    e2e_request_latency_seconds_sum generation_tokens_total inter_token_latency_seconds_bucket
    inter_token_latency_seconds_count inter_token_latency_seconds_sum iteration_tokens_total_count
    kv_cache_usage_perc num_requests_running num_requests_waiting prompt_tokens_total
    request_decode_time_seconds_sum request_generation_tokens_bucket
    request_max_num_generation_tokens_sum request_prefill_time_seconds_sum
    request_prompt_tokens_bucket request_queue_time_seconds_sum request_success_total
    request_time_per_output_token_seconds_bucket request_time_per_output_token_seconds_count
    request_time_per_output_token_seconds_sum time_to_first_token_seconds_bucket
    time_to_first_token_seconds_count time_to_first_token_seconds_sum
    cache_config_info engine_sleep_state num_requests_waiting_by_reason num_preemptions_total
    prefix_cache_queries_total prefix_cache_hits_total prompt_tokens_cached_total
    prompt_tokens_by_source_total request_num_preemptions_count request_params_n_sum
    request_params_max_tokens_sum request_prefill_kv_computed_tokens_sum
    request_inference_time_seconds_sum spec_decode_num_drafts_total
    spec_decode_num_draft_tokens_total spec_decode_num_accepted_tokens_total
"""
WITHOUT_ENGINE = {"tool_call_parser_invocations_total", "lora_requests_info"}


@pytest.fixture(scope="module")
def vllm_metrics(launch: Launch) -> str:
    """The exposition of a pool with the reference's prefix, after a request and a sleep."""
    server = launch("--metrics-prefix", "vllm", "--enable-lora", "--enable-admin", step_s=0.001)
    assert complete(server) == 200
    assert httpx.post(f"{server.url}/sleep?level=2", timeout=30).status_code == 200
    asleep = 'vllm:engine_sleep_state{engine="0",model_name="%s",sleep_state="discard_all"} 1.0'
    name = httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"]

    def text() -> str:
        return httpx.get(f"{server.url}/metrics").text

    wait_for(lambda: asleep % name in text(), "it sleeps")
    return text()


def test_boards_and_gateways_find_all_names(vllm_metrics: str) -> None:
    samples = [line for line in vllm_metrics.splitlines() if not line.startswith("#")]
    for name in BOARD_NAMES.split():
        found = [line for line in samples if line.startswith(f"vllm:{name}{{")]
        assert found, name
        assert all('model_name="' in line and 'engine="' in line for line in found), name
    for name in WITHOUT_ENGINE:
        assert any(line.startswith(f"vllm:{name}{{") for line in samples), name


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_complains_of_the_references_names_only(vllm_metrics: str) -> None:
    check = ["promtool", "check", "metrics"]
    lines = subprocess.run(check, input=vllm_metrics, capture_output=True, text=True).stderr
    complaints = [line for line in lines.splitlines() if "not contain ':'" not in line]
    name = "vllm:iteration_tokens_total"
    assert complaints == [f'{name} non-counter metrics should not have "_total" suffix']
