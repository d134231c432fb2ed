"""Texts and numbers over real processes: a pool that generates and embeds, whose workers die."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil
import pytest
from openai import NotFoundError, OpenAI

from tests.end_to_end.admin.test_adapters import write_adapter
from tests.end_to_end.servers import Server, wait_for

URL: Literal["/v1/embeddings"] = "/v1/embeddings"
SIZE = 16


@pytest.fixture(scope="module")
def server(
    fake_model: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A group that generates, and two workers that pool, slowly, with an adapter."""
    file = tmp_path_factory.mktemp("pool") / "pool.toml"
    adapter = write_adapter(file.with_name("adapter"), 1)
    shared = f'model = "{fake_model}"\nengine = "fake"\n'
    file.write_text(
        f'frontends = 2\nenable_admin = true\n[[group]]\nname = "chat"\nworkers = 1\n'
        f'served_model_name = "fake"\n{shared}'
        f'[[group]]\nname = "embed"\nserved_model_name = "vectors"\nworkers = 2\n'
        f'runner = "pooling"\nfake_step_s = 0.05\nmax_num_seqs = 4\n{shared}'
        f'enable_lora = true\nlora_modules = ["tuned={adapter}"]\n'
        f"[group.hf_overrides]\nhidden_size = {SIZE}\nnum_attention_heads = 4\n"
    )
    started = Server(["--config", str(file)], cache_dir)
    yield started
    assert started.stop() == 0


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as found:
        yield found


def test_documents_in_the_order_of_their_scores(server: Server) -> None:
    texts = ["a b", "c", "a", "d e f"]
    for path in ("/rerank", "/v2/rerank", "/invocations"):
        body = server.client.post(path, json={"query": "a", "documents": texts}).json()
        assert body["model"] == "vectors"
        scores = {each["index"]: each["relevance_score"] for each in body["results"]}
        assert scores[2] == pytest.approx(1, abs=1e-6) == max(scores.values())
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
    pairs = server.client.post("/score", json={"text_1": "a", "text_2": texts}).json()
    assert [each["score"] for each in pairs["data"]] == [scores[index] for index in range(4)]
    refused = server.client.post("/score", json={"model": "fake", "text_1": "a", "text_2": "b"})
    assert refused.status_code == 404


def test_each_model_does_its_own(server: Server, client: OpenAI) -> None:
    tasks = {card.id: card.model_dump()["tasks"] for card in client.models.list()}
    embeds = ["embed", "token_embed"]
    assert tasks == {"fake": ["generate"], "vectors": embeds, "tuned": embeds}
    answer = client.embeddings.create(model="vectors", input=["a", "b", "a"])
    first, second, third = (item.embedding for item in answer.data)
    assert first == third != second
    assert len(first) == SIZE
    assert sum(number * number for number in first) == pytest.approx(1, abs=1e-5)
    with pytest.raises(NotFoundError, match="does not embed"):
        client.embeddings.create(model="fake", input="a")
    with pytest.raises(NotFoundError, match="does not generate"):
        client.completions.create(model="vectors", prompt="a")
    body = server.client.post(URL, json={"input": "a"}).json()
    assert body["model"] == "vectors"  # the first that embeds
    groups = {group["name"]: group for group in server.get("/load?verbose").json()["groups"]}
    assert groups["chat"]["tasks"] == ["generate"]
    assert groups["embed"]["tasks"] == ["embed", "token_embed"]


def test_adapters_are_models_that_embed(server: Server, client: OpenAI, tmp_path: Path) -> None:
    def vector(model: str) -> list[float]:
        return client.embeddings.create(model=model, input="a").data[0].embedding

    base, tuned = vector("vectors"), vector("tuned")
    assert base != tuned == vector("tuned")
    load = {"lora_name": "other", "lora_path": str(write_adapter(tmp_path / "adapter", 2))}
    answer = server.client.post("/v1/load_lora_adapter?model=vectors", json=load)
    assert answer.status_code == 200, answer.text
    assert vector("other") not in (base, tuned)
    cards = {card.id: card.model_dump() for card in client.models.list()}
    assert (cards["other"]["parent"], cards["other"]["tasks"][0]) == ("vectors", "embed")
    pooled = server.client.post("/pooling", json={"model": "other", "input": "a"}).json()
    assert pooled["data"][0]["data"] == vector("other")
    gone = server.client.post("/v1/unload_lora_adapter", json={"lora_name": "other"})
    assert gone.status_code == 200, gone.text
    with pytest.raises(NotFoundError):
        vector("other")


def test_chats_go_first_on_the_cores(server: Server) -> None:
    own = psutil.Process(server.process.pid).nice()
    for worker in server.children("headrace.workers.main"):
        more = 6 if "embed" in " ".join(worker.cmdline()) else 0
        assert worker.nice() == own + more
        autogroup = Path(f"/proc/{worker.pid}/autogroup")  # of the worker's session alone
        if autogroup.exists() and "nice" in (session := autogroup.read_text()):
            assert session.split()[-1] == str(own + more if more else 0)


def test_nothing_is_lost_when_a_worker_dies(server: Server, client: OpenAI) -> None:
    texts = [f"text {number}" for number in range(60)]
    alone = client.embeddings.create(model="vectors", input=texts)
    expected = [item.embedding for item in alone.data]
    before = server.metric("headrace:request_replays_total", model_name="vectors")

    def ask(number: int) -> list[list[float]]:
        answer = client.embeddings.create(model="vectors", input=texts)
        return [item.embedding for item in answer.data]

    with ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(ask, number) for number in range(8)]
        wait_for(lambda: _running(server) > 2, "texts run")
        workers = server.children("headrace.workers.main")
        pooling = [each for each in workers if "embed" in " ".join(each.cmdline())]
        pooling[0].kill()
        assert [answer.result() for answer in answers] == [expected] * 8
    assert server.metric("headrace:request_replays_total", model_name="vectors") > before


def test_metrics_of_texts(server: Server, client: OpenAI) -> None:
    labels = {"model_name": "vectors"}

    def count(name: str, **more: str) -> float:
        return server.metric(f"headrace:{name}", **labels, **more)

    names = (
        "prompt_tokens_total", "prompt_tokens_by_source_total", "iteration_tokens_total_sum",
        "request_prompt_tokens_sum", "request_prefill_kv_computed_tokens_sum",
        "request_prompt_tokens_count", "request_generation_tokens_count", "request_params_n_count",
        "time_to_first_token_seconds_count", "e2e_request_latency_seconds_count",
        "request_queue_time_seconds_count", "request_prefill_time_seconds_count",
        "request_inference_time_seconds_count", "request_decode_time_seconds_count",
    )  # fmt: skip
    before = {name: count(name) for name in names}
    stopped = count("request_success_total", finished_reason="stop")
    with ThreadPoolExecutor(1) as threads:
        texts = ["a b"] * 100
        asked = threads.submit(client.embeddings.create, model="vectors", input=texts)
        for gauge in ("num_requests_running", "num_requests_waiting"):
            wait_for(lambda gauge=gauge: count(gauge) > 0, f"{gauge} shows texts")  # type: ignore[misc]
        tokens = asked.result().usage.prompt_tokens
    wait_for(
        lambda: count("request_success_total", finished_reason="stop") == stopped + 100,
        "all texts are counted",
    )
    wait_for(lambda: count("num_requests_running") == 0, "no text runs")
    for name in names:
        moved = count(name) - before[name]
        assert moved == (100 if name.endswith("_count") else tokens), name
    assert count("generation_tokens_total") == 0
    assert count("inter_token_latency_seconds_count") == 0


def _running(server: Server) -> int:
    groups = server.get("/load?verbose").json()["groups"]
    return sum(each["running"] + each["waiting"] for each in groups if each["name"] == "embed")


def test_texts_of_a_client_that_has_left_do_not_run(server: Server) -> None:
    texts = [f"text {number}" for number in range(2000)]  # 500 steps of 0.05 s, in two workers
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(server.url + URL, json={"input": texts}, timeout=1.0)
    wait_for(lambda: _running(server) == 0, "nothing runs", 5)


def test_sleeping_workers_wake_and_more_begin_to_work(server: Server, client: OpenAI) -> None:
    texts = [f"text {number}" for number in range(40)]

    def ask() -> list[list[float]]:
        answer = client.embeddings.create(model="vectors", input=texts)
        return [item.embedding for item in answer.data]

    def asleep() -> dict[str, int]:
        groups = server.get("/health?verbose").json()["groups"]
        return {group["name"]: group["asleep"] for group in groups}

    expected = ask()
    assert server.client.post("/sleep?model=vectors").status_code == 200
    assert asleep() == {"chat": 0, "embed": 2}
    assert ask() == expected
    assert asleep()["embed"] < 2
    with ThreadPoolExecutor(4) as threads:
        for size in (3, 2):
            answers = [threads.submit(ask) for _ in range(4)]
            body = {"new_data_parallel_size": size, "drain_timeout": 30}
            scaled = server.client.post("/scale_elastic_ep?model=vectors", json=body)
            assert scaled.status_code == 200, scaled.text
            assert [answer.result() for answer in answers] == [expected] * 4


def test_lines_of_a_batch(client: OpenAI) -> None:
    def line(number: int, **fields: Any) -> bytes:
        body = {"model": "vectors", "input": f"text {number}", **fields}
        request = {"custom_id": str(number), "method": "POST", "url": URL, "body": body}
        return json.dumps(request).encode() + b"\n"

    content = b"".join([line(0), line(1), line(2, dimensions=3)])
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint=URL, completion_window="24h", metadata={}
    )
    wait_for(
        lambda: client.batches.retrieve(batch.id).status == "completed", "the batch has ended", 60
    )
    batch = client.batches.retrieve(batch.id)
    lines = client.files.content(batch.output_file_id or "").text.splitlines()
    found = {each["custom_id"]: each["response"]["body"] for each in map(json.loads, lines)}
    live = client.embeddings.create(model="vectors", input="text 1", encoding_format="float")
    assert found["1"]["data"][0]["embedding"] == live.data[0].embedding
    (error,) = client.files.content(batch.error_file_id or "").text.splitlines()
    assert json.loads(error)["custom_id"] == "2"
    assert "dimensions" in error
