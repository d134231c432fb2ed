"""A real model that is made to think: its template opens a block, and a budget closes it."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jsonschema
import pytest
from anthropic import Anthropic
from anthropic.types import Message, TextBlock, ThinkingBlock, ToolUseBlock
from openai import BadRequestError, OpenAI
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion

from tests.end_to_end.servers import Server
from tests.end_to_end.streams import StreamedChat, chats

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{{ '<|im_start|>assistant\n' }}"
    "{{ '<think>\n\n</think>\n\n' if enable_thinking is false else '<think>\n' }}"
)
SPECULATION = '{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 1}'
QUESTION = [{"role": "user", "content": "Count from one to twenty, then tell me why. One, two"}]
BUDGET = 12
NUMBERS = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": 99},
    "minItems": 16,
    "maxItems": 16,
}
FORM = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": NUMBERS}},
    "structured_outputs": {"disable_any_whitespace": True},
}
COUNT: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "count",
        "parameters": {
            "type": "object",
            "properties": {"numbers": NUMBERS},
            "required": ["numbers"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    flags = ["--chat-template", TEMPLATE]  # which tells how the model reasons
    tools = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    pool = ["--served-model-name", "smol", "--frontends", "1", "--workers", "1"]
    size = ["--max-model-len", "512", "--kv-cache-memory-bytes", "64MiB", "--dtype", "float32"]
    started = Server([*flags, *tools, *pool, *size, "--speculative-config", SPECULATION])
    yield started
    assert started.stop() == 0


class Said(NamedTuple):
    """What a chat has said; token_ids and usage are of its thoughts, too."""

    reasoning: str | None
    content: str | None
    token_ids: list[int]
    usage: CompletionUsage


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as one:
        yield one


@pytest.fixture(scope="module")
def end_ids(server: Server) -> list[int]:
    body = {"model": "smol", "prompt": "</think>", "add_special_tokens": False}
    ids: list[int] = server.client.post("/tokenize", json=body).raise_for_status().json()["tokens"]
    return ids


def ask(client: OpenAI, **extra: Any) -> Said:
    """Return what a chat says; a stream must say the same."""
    fields: dict[str, Any] = {
        "model": "smol",
        "messages": QUESTION,
        "temperature": 0,
        "max_tokens": 32,
    }
    fields["extra_body"] = {"return_token_ids": True, **extra}
    reasoning = content = ""
    with ThreadPoolExecutor(1) as thread:
        other = thread.submit(lambda: client.chat.completions.create(**fields))
        for chunk in client.chat.completions.create(**fields, stream=True):
            delta = chunk.choices[0].delta
            reasoning += getattr(delta, "reasoning", None) or ""
            content += delta.content or ""
        whole: ChatCompletion = other.result()
    choice, usage = whole.choices[0].model_dump(), whole.usage
    message = choice["message"]
    assert (reasoning, content) == (message["reasoning"] or "", message["content"] or "")
    assert usage is not None
    return Said(message["reasoning"], message["content"], choice["token_ids"], usage)


@pytest.fixture(scope="module")
def free(client: OpenAI) -> Said:
    """What is said without a budget."""
    return ask(client)


@pytest.fixture(scope="module")
def held(client: OpenAI) -> Said:
    """What is said within one."""
    return ask(client, thinking_token_budget=BUDGET)


def test_a_budget_ends_the_thinking_and_an_answer_follows(
    free: Said, held: Said, end_ids: list[int]
) -> None:
    assert free[1] is None  # the model knows no such delimiter and thinks to the end
    reasoning, content, token_ids, usage = held
    assert token_ids[:BUDGET] == free[2][:BUDGET]
    assert token_ids[BUDGET : BUDGET + len(end_ids)] == end_ids
    assert reasoning
    assert free.reasoning is not None
    assert free.reasoning.startswith(reasoning)
    assert content
    assert "</think>" not in content
    assert usage.completion_tokens == len(token_ids)
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == BUDGET


def test_a_budget_of_none_and_of_nothing(client: OpenAI, free: Said, end_ids: list[int]) -> None:
    assert ask(client, thinking_token_budget=-1)[:3] == free[:3]
    reasoning, content, token_ids, _ = ask(client, thinking_token_budget=0)
    assert reasoning is None
    assert content
    assert token_ids[: len(end_ids)] == end_ids


def test_reasoning_can_be_left_out_or_not_be_done(client: OpenAI, held: Said) -> None:
    _, content, token_ids, usage = held
    hidden = ask(client, thinking_token_budget=BUDGET, include_reasoning=False)
    assert hidden[:3] == (None, content, token_ids)
    assert hidden[3].completion_tokens_details == usage.completion_tokens_details
    reasoning, content, _, _ = ask(client, reasoning_effort="none", thinking_token_budget=BUDGET)
    assert reasoning is None
    assert content


def test_completions_have_budgets_too(client: OpenAI) -> None:
    fields: dict[str, Any] = {"model": "smol", "temperature": 0, "max_tokens": 40}
    text = client.completions.create(
        prompt="<think>\nOne, two,", extra_body={"thinking_token_budget": 6}, **fields
    )
    plain = client.completions.create(
        prompt="One, two,", extra_body={"thinking_token_budget": 6}, **fields
    )
    assert text.choices[0].text.count("</think>") == 1
    assert "</think>" not in plain.choices[0].text


def test_a_budget_that_is_none_is_refused(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="thinking_token_budget"):
        ask(client, thinking_token_budget=-5)


# Messages


@pytest.fixture(scope="module")
def anthropic(server: Server) -> Iterator[Anthropic]:
    with Anthropic(base_url=server.url, api_key="none", max_retries=0) as one:
        yield one


def message(anthropic: Anthropic, **extra: Any) -> Message:
    """The message within the budget; as events, they must say the same, block by block."""
    fields: dict[str, Any] = {"model": "smol", "max_tokens": 60, "messages": QUESTION, **extra}
    fields |= {"thinking": {"type": "enabled", "budget_tokens": BUDGET}}
    fields["extra_body"] = {"temperature": 0}
    with ThreadPoolExecutor(1) as thread, anthropic.messages.stream(**fields) as stream:
        other = thread.submit(lambda: anthropic.messages.create(**fields))
        events = list(stream)
        whole: Message = other.result()
        streamed = stream.get_final_message()
    contents = [
        [block.model_dump(exclude={"id"}) for block in m.content] for m in (whole, streamed)
    ]
    assert contents[0] == contents[1]
    assert whole.stop_reason == streamed.stop_reason
    bounds = [
        (e.type, e.index)
        for e in events
        if e.type == "content_block_start" or e.type == "content_block_stop"
    ]
    ends = ("content_block_start", "content_block_stop")
    assert bounds == [(end, index) for index in range(len(contents[0])) for end in ends]
    for kind in ("thinking", "signature", "text"):
        deltas = "".join(getattr(e, kind) for e in events if e.type == kind)
        assert deltas == "".join(block.get(kind) or "" for block in contents[0])
    return whole


def test_anthropics_client_reads_thoughts_and_gives_them_back(
    anthropic: Anthropic, held: Said
) -> None:
    first = message(anthropic)
    thoughts, text = first.content
    assert isinstance(thoughts, ThinkingBlock)
    assert thoughts.thinking == held.reasoning
    assert thoughts.signature
    assert isinstance(text, TextBlock)
    assert held.content is not None
    assert text.text.startswith(held.content)
    more: list[Any] = [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": "And?"},
    ]
    second = message(anthropic, messages=[*QUESTION, *more])
    assert [block.type for block in second.content] == ["thinking", "text"]


def test_anthropics_client_reads_a_call_after_thoughts(anthropic: Anthropic, held: Said) -> None:
    function = COUNT["function"]
    tool = {"name": function["name"], "input_schema": function["parameters"]}
    called = message(anthropic, max_tokens=120, tools=[tool], tool_choice={"type": "any"})
    thoughts, call = called.content
    assert isinstance(thoughts, ThinkingBlock)
    assert thoughts.thinking == held.reasoning
    assert isinstance(call, ToolUseBlock)
    assert call.name == "count"
    jsonschema.validate(call.input, function["parameters"])
    assert called.stop_reason == "tool_use"


def test_a_worker_that_dies_costs_no_token_of_thoughts_forms_and_calls(server: Server) -> None:
    """Of either form, one chat is in its answer when the worker dies, and one in its thoughts."""
    asked = [
        {"messages": QUESTION, "temperature": 0, "max_tokens": 150, "thinking_token_budget": b, **f}
        for b in (4, 40)
        for f in (FORM, {"tools": [COUNT], "tool_choice": "required"})
    ]
    plain = chats(server, asked)
    assert [chat.ends for chat in plain] == [["stop", "[DONE]"], ["tool_calls", "[DONE]"]] * 2
    for chat in plain:
        answer = json.loads(chat.answer)
        jsonschema.validate(answer["numbers"] if chat.arguments else answer, NUMBERS)
    (worker,) = server.children("headrace.workers.main")
    at_death: list[list[tuple[bool, list[str]]]] = []

    def kill(streamed: list[StreamedChat]) -> None:
        if (
            not at_death
            and all(t.answer for t in streamed[:2])
            and all(t.reasoning for t in streamed)
        ):
            at_death.append([(bool(t.answer), list(t.ends)) for t in streamed])
            worker.kill()

    assert chats(server, asked, kill) == plain
    assert at_death == [[(True, []), (True, []), (False, []), (False, [])]]
    assert server.children("headrace.workers.main") != [worker]
