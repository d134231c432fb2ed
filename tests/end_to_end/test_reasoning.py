"""A real model that is made to think: its template opens a block, and a budget closes it."""

from collections.abc import Iterator

import pytest
from openai import BadRequestError, OpenAI
from servers import Server

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{{ '<|im_start|>assistant\n' }}"
    "{{ '<think>\n\n</think>\n\n' if enable_thinking is false else '<think>\n' }}"
)
SPECULATION = '{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 1}'
QUESTION = [{"role": "user", "content": "Count from one to twenty, then tell me why. One, two"}]
BUDGET = 12


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    flags = ["--reasoning-parser", "deepseek_r1", "--chat-template", TEMPLATE]
    pool = ["--served-model-name", "smol", "--frontends", "1", "--workers", "1"]
    size = ["--max-model-len", "512", "--kv-cache-memory-bytes", "64MiB", "--dtype", "float32"]
    started = Server([*flags, *pool, *size, "--speculative-config", SPECULATION])
    yield started
    assert started.stop() == 0


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as one:
        yield one


@pytest.fixture(scope="module")
def end_ids(server: Server) -> list[int]:
    body = {"model": "smol", "prompt": "</think>", "add_special_tokens": False}
    ids: list[int] = server.client.post("/tokenize", json=body).raise_for_status().json()["tokens"]
    return ids


def ask(client: OpenAI, **extra):
    """(reasoning, content, token ids, usage); a stream must say the same."""
    fields = {"model": "smol", "messages": QUESTION, "temperature": 0, "max_tokens": 32}
    extra_body = {"return_token_ids": True, **extra}
    whole = client.chat.completions.create(**fields, extra_body=extra_body)
    choice, reasoning, content = whole.choices[0], "", ""
    for chunk in client.chat.completions.create(**fields, extra_body=extra_body, stream=True):
        delta = chunk.choices[0].delta
        reasoning += getattr(delta, "reasoning", None) or ""
        content += delta.content or ""
    message = choice.message
    assert (reasoning, content) == (message.reasoning or "", message.content or "")
    return message.reasoning, message.content, choice.token_ids, whole.usage


def test_a_budget_ends_the_thinking_and_an_answer_follows(client, end_ids):
    free = ask(client)
    assert free[1] is None  # the model knows no such mark and thinks to the end
    reasoning, content, token_ids, usage = ask(client, thinking_token_budget=BUDGET)
    assert token_ids[:BUDGET] == free[2][:BUDGET]
    assert token_ids[BUDGET : BUDGET + len(end_ids)] == end_ids
    assert reasoning
    assert free[0].startswith(reasoning)
    assert content
    assert "</think>" not in content
    assert usage.completion_tokens == len(token_ids)
    assert usage.completion_tokens_details.reasoning_tokens == BUDGET


def test_a_budget_of_none_and_of_nothing(client, end_ids):
    assert ask(client, thinking_token_budget=-1)[:3] == ask(client)[:3]
    reasoning, content, token_ids, _ = ask(client, thinking_token_budget=0)
    assert reasoning is None
    assert content
    assert token_ids[: len(end_ids)] == end_ids


def test_reasoning_can_be_left_out_or_not_be_done(client):
    _, content, token_ids, usage = ask(client, thinking_token_budget=BUDGET)
    hidden = ask(client, thinking_token_budget=BUDGET, include_reasoning=False)
    assert hidden[:3] == (None, content, token_ids)
    assert hidden[3].completion_tokens_details == usage.completion_tokens_details
    reasoning, content, _, _ = ask(client, reasoning_effort="none", thinking_token_budget=BUDGET)
    assert reasoning is None
    assert content


def test_completions_have_budgets_too(client):
    fields = {"model": "smol", "temperature": 0, "max_tokens": 40}
    text = client.completions.create(
        prompt="<think>\nOne, two,", extra_body={"thinking_token_budget": 6}, **fields
    )
    plain = client.completions.create(
        prompt="One, two,", extra_body={"thinking_token_budget": 6}, **fields
    )
    assert text.choices[0].text.count("</think>") == 1
    assert "</think>" not in plain.choices[0].text


def test_a_budget_that_is_none_is_refused(client):
    with pytest.raises(BadRequestError, match="thinking_token_budget"):
        ask(client, thinking_token_budget=-5)
