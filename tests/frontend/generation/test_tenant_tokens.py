"""Tokens by tenant: whose they are, and how many labels there can be."""

import pytest
from prometheus_client import CollectorRegistry
from quart.typing import TestClientProtocol as Client

from headrace.frontend.metrics.tenants import MAX_LABEL_CHARS, MAX_TENANTS, OTHERS, TenantTokens

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
PATHS = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "Hello", "max_tokens": 3},
    "/v1/responses": {"input": "Hello", "max_output_tokens": 3, "store": False},
    "/v1/messages": {"model": "smol", **CHAT},
}


def counted(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    return {
        (sample.labels["tenant"], sample.labels["kind"]): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }


def made() -> tuple[CollectorRegistry, TenantTokens]:
    registry = CollectorRegistry()
    return registry, TenantTokens("t:", registry)


async def test_each_tenant_has_its_own_counters() -> None:
    registry, tokens = made()
    tokens.of("ann").prompt.add(5)
    tokens.of("ann").generation.add(2)
    tokens.of("bob").generation.add(1)
    tokens.of("ann").generation.add(1)
    for name in ("ann", "bob"):
        tokens.of(name).flush()
    found = {key: value for key, value in counted(registry).items() if value}
    assert found == {("ann", "prompt"): 5, ("ann", "generation"): 3, ("bob", "generation"): 1}


async def test_tenants_beyond_the_bound_count_together() -> None:
    registry, tokens = made()
    for number in range(MAX_TENANTS + 50):
        tokens.of(f"tenant {number}").generation.add(1)
        tokens.of(f"tenant {number}").flush()
    found = counted(registry)
    assert len({tenant for tenant, _ in found} - {"", OTHERS}) == MAX_TENANTS
    assert found[OTHERS, "generation"] == 50
    tokens.of("tenant 0").generation.add(1)  # who has a label keeps it
    tokens.of("tenant 0").flush()
    assert counted(registry)["tenant 0", "generation"] == 2


async def test_long_names_are_cut_and_stay_apart() -> None:
    registry, tokens = made()
    for end in "ab":
        tokens.of("x" * 1000 + end).prompt.add(1)
    labels = {tenant for tenant, _ in counted(registry)} - {""}
    assert len(labels) == 2
    assert {len(label) for label in labels} == {MAX_LABEL_CHARS}


@pytest.mark.parametrize("path", PATHS)
async def test_a_request_counts_for_its_user(client: Client, path: str) -> None:
    whose = {"metadata": {"user_id": "ann"}} if path == "/v1/messages" else {"user": "ann"}
    answer = await client.post(path, json={**PATHS[path], **whose})
    assert answer.status_code == 200
    text = await (await client.get("/metrics")).get_data(as_text=True)
    found = [line for line in text.splitlines() if "tenant_tokens_total{" in line]
    lines = dict(line.rsplit(" ", 1) for line in found)
    name = 'headrace:tenant_tokens_total{kind="%s",tenant="%s"}'
    assert float(lines[name % ("generation", "ann")]) == 3
    assert float(lines[name % ("prompt", "ann")]) > 0
    assert float(lines[name % ("generation", "")]) == 0


async def test_nobodys_tokens_count_too(client: Client) -> None:
    await client.post("/v1/completions", json={"prompt": "Hello", "max_tokens": 3, "n": 2})
    text = await (await client.get("/metrics")).get_data(as_text=True)
    assert 'headrace:tenant_tokens_total{kind="generation",tenant=""} 6.0' in text
