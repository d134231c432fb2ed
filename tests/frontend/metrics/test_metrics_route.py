"""What GET /metrics shows of requests, and the load reports in their answers."""

import json
from dataclasses import replace
from functools import partial

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.pool.interface import PoolBusy, PoolUnavailable
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.config import ServingOptions
from headrace.protocol.state import (
    WorkerLoad,
)
from headrace.protocol.to_worker import Generate
from tests.frontend.asking import numbers
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool

STOPPED = 'headrace:request_success_total{engine="0",finished_reason="stop",model_name="smol"}'
QUESTION = {"messages": [{"role": "user", "content": "Hello"}]}


async def test_metrics_count_what_happened(client: Client, pool: FakePool) -> None:
    await client.post("/v1/chat/completions", json={**QUESTION, "max_tokens": 3})
    await client.post("/v1/chat/completions", json={**QUESTION, "stream": True})
    await client.post("/v1/chat/completions", json={"messages": 1})
    pool.failure = RuntimeError()
    await client.post("/v1/chat/completions", json=QUESTION)
    await client.get("/nope/1")
    response = await client.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain")
    found = numbers(await response.get_data(as_text=True))
    prompt = len(pool.requests[0].prompt_token_ids)
    label = '{engine="0",model_name="smol"}'
    assert found[f"headrace:prompt_tokens_total{label}"] == 2 * prompt
    assert found[f"headrace:generation_tokens_total{label}"] == 3 + 8
    for reason, engine in (("length", "0"), ("stop", "0"), ("error", "")):
        labels = f'engine="{engine}",finished_reason="{reason}",model_name="smol"'
        name = f"headrace:request_success_total{{{labels}}}"
        assert found[name] == 1
    for name, count in (
        ("time_to_first_token_seconds", 2),
        ("inter_token_latency_seconds", 2 + 7),
        ("request_time_per_output_token_seconds", 2),
        ("e2e_request_latency_seconds", 2),
        ("request_queue_time_seconds", 2),
        ("request_prefill_time_seconds", 2),
        ("request_decode_time_seconds", 2),
        ("request_inference_time_seconds", 2),
        ("request_prompt_tokens", 2),
        ("request_generation_tokens", 2),
        ("request_max_num_generation_tokens", 2),
        ("request_params_n", 2),
        ("request_params_max_tokens", 2),
    ):
        assert found[f"headrace:{name}_count{label}"] == count, name
    assert found[f"headrace:request_queue_time_seconds_sum{label}"] == 1.0
    route = 'handler="/v1/chat/completions",method="POST"'
    assert found[f'http_requests_total{{{route},status="2xx"}}'] == 2
    assert found[f'http_requests_total{{{route},status="4xx"}}'] == 1
    assert found[f'http_requests_total{{{route},status="5xx"}}'] == 1
    assert found['http_requests_total{handler="none",method="GET",status="4xx"}'] == 1
    assert found[f"http_request_duration_seconds_count{{{route}}}"] == 4


async def test_the_longest_of_a_prompts_texts_is_counted_once(
    client: Client, pool: FakePool
) -> None:
    lengths = iter([3, 7, 5, 2])
    pool.reply = lambda request: [300] * next(lengths) + [2]
    fields = {"prompt": ["a", "b"], "n": 2, "temperature": 1, "seed": 1, "ignore_eos": True}
    response = await client.post("/v1/completions", json={**fields, "stop_token_ids": [2]})
    assert response.status_code == 200
    text = await (await client.get("/metrics")).get_data(as_text=True)
    name = "headrace:request_max_num_generation_tokens"
    found = numbers(text)
    assert found[f'{name}_count{{engine="0",model_name="smol"}}'] == 2
    assert found[f'{name}_sum{{engine="0",model_name="smol"}}'] == 8 + 6


async def test_refusals_are_counted_by_reason(client: Client, pool: FakePool) -> None:
    await client.post("/v1/chat/completions", json={**QUESTION, "temperature": -1})
    await client.post("/v1/messages", json={"model": "smol"})
    await client.post("/v1/completions", json={"prompt": "a", "model": "other"})
    await client.post("/v1/completions", json={}, headers={"Content-Encoding": "gzip"})
    for error in (PoolBusy("full"), PoolUnavailable("none is there")):
        pool.failure = error
        await client.post("/v1/completions", json={"prompt": "a"})
    pool.state = None
    await client.get("/health")
    await client.post("/ping")
    await client.post("/nowhere")
    found = numbers(await (await client.get("/metrics")).get_data(as_text=True))
    for reason, count in (
        ("invalid", 2),
        ("not_found", 1),
        ("media_type", 1),
        ("busy", 1),
        ("unavailable", 1),
        ("too_large", 0),
        ("stopping", 0),
    ):
        assert found[f'headrace:requests_refused_total{{reason="{reason}"}}'] == count, reason


async def test_series_are_there_before_the_first_request(client: Client) -> None:
    found = numbers(await (await client.get("/metrics")).get_data(as_text=True))
    label = '{engine="0",model_name="smol"}'
    assert found[f"headrace:request_replays_total{label}"] == 0
    assert found[f"headrace:e2e_request_latency_seconds_count{label}"] == 0
    assert found[STOPPED] == 0


async def test_a_model_is_counted_under_one_name(client: Client) -> None:
    await client.post("/v1/chat/completions", json={**QUESTION, "model": "smol-alias"})
    found = numbers(await (await client.get("/metrics")).get_data(as_text=True))
    assert found[STOPPED] == 1
    assert not any("smol-alias" in name for name in found)


async def test_the_metrics_prefix_can_be_vllms(make_app: MAKE_APP) -> None:
    client = make_app(metrics_prefix="vllm").test_client()
    await client.post("/v1/chat/completions", json=QUESTION)
    text = await (await client.get("/metrics")).get_data(as_text=True)
    assert STOPPED.replace("headrace", "vllm") + " 1.0" in text
    assert "headrace:" not in text


async def test_prompt_tokens_are_counted_by_where_they_came_from(
    client: Client, pool: FakePool
) -> None:
    pool.cached_tokens = 4
    await client.post("/v1/completions", json={"prompt": [5, 6, 7, 8, 9, 10]})
    found = numbers(await (await client.get("/metrics")).get_data(as_text=True))
    label = '{engine="0",model_name="smol"}'
    assert found[f"headrace:prompt_tokens_cached_total{label}"] == 4
    assert found[f"headrace:request_prefill_kv_computed_tokens_sum{label}"] == 2
    for source, count in (("local_cache_hit", 4), ("local_compute", 2)):
        labels = f'{{engine="0",model_name="smol",source="{source}"}}'
        assert found[f"headrace:prompt_tokens_by_source_total{labels}"] == count


@pytest.mark.parametrize("form", ["TEXT", "json"])
@pytest.mark.parametrize("streams", [True, False])
async def test_a_load_report_comes_with_the_answer(
    client: Client, pool: FakePool, form: str, streams: bool
) -> None:
    assert pool.state is not None
    load = WorkerLoad(running=2, waiting=5, kv_usage=0.25, steps=7, step_age_s=0.25)
    worker = replace(pool.state.workers[0], load=load)
    idle = replace(worker, load=replace(load, waiting=1, kv_usage=0.0))
    pool.state = replace(pool.state, workers=(worker, idle))
    headers = {"endpoint-load-metrics-format": form}
    response = await client.post(
        "/v1/completions", json={"prompt": "a", "stream": streams}, headers=headers
    )
    report = response.headers["endpoint-load-metrics"]
    if form == "TEXT":
        pairs = "named_metrics.kv_cache_usage_perc=0.125, named_metrics.num_requests_waiting=6.0"
        assert report == f"TEXT {pairs}"
    else:
        named = {"kv_cache_usage_perc": 0.125, "num_requests_waiting": 6.0}
        assert json.loads(report.removeprefix("JSON ")) == {"named_metrics": named}


@pytest.mark.parametrize("headers", [{}, {"endpoint-load-metrics-format": "BIN"}])
async def test_no_load_report_is_sent_unasked(client: Client, headers: dict[str, str]) -> None:
    response = await client.post("/v1/completions", json={"prompt": "a"}, headers=headers)
    assert response.status_code == 200
    assert "endpoint-load-metrics" not in response.headers


def _reply(tokens: list[int], request: Generate) -> list[int]:
    return [*tokens, *request.sampling.eos_token_ids[:1]]


async def test_tool_parsers_are_counted_by_what_they_found(
    make_app: MAKE_APP, pool: FakePool, text: ModelTokenizer
) -> None:
    serving = ServingOptions(enable_auto_tool_choice=True, tool_call_parser="hermes")
    client = make_app(serving=serving).test_client()
    tools = [{"type": "function", "function": {"name": "f"}}]
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    for output, streams in (("Hello", False), (call, False), (call, True)):
        tokens = text.backend.encode(output, add_special_tokens=False).ids
        pool.reply = partial(_reply, tokens)
        body = {**QUESTION, "tools": tools, "stream": streams}
        response = await client.post("/v1/chat/completions", json=body)
        await response.get_data()
    found = numbers(await (await client.get("/metrics")).get_data(as_text=True))
    for mode, outcome, count in (
        ("non_streaming", "no_tool_call", 1),
        ("non_streaming", "tool_call", 1),
        ("streaming", "tool_call", 1),
    ):
        labels = f'mode="{mode}",model_name="smol",outcome="{outcome}"'
        name = "headrace:tool_call_parser_invocations_total"
        assert found[f'{name}{{{labels},request_type="chat_completions"}}'] == count
