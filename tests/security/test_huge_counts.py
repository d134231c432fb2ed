"""What a request asks for is bounded before anything is made of it."""

from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from tests.frontend.fake_pool import FakePool
from tests.frontend.text.tokenizers_for_tests import SPECIAL

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "Hi"}
MANY = 50_000
HUGE: list[tuple[str, dict[str, Any], str]] = [
    (route, {**asked, **fields}, param)
    for route, asked in ((CHAT, {"messages": [USER]}), (TEXT, {"prompt": "Hi"}))
    for fields, param in (
        ({"n": 2**31 - 1, "temperature": 1}, "n"),
        ({"n": 10**18, "temperature": 1}, "n"),
        ({"n": 10**300, "temperature": 1}, "n"),
        ({"n": 100_000, "use_beam_search": True}, "n"),
        ({"stop": ["a"] * MANY}, "stop"),
        ({"stop_token_ids": [5] * MANY}, "stop_token_ids"),
        ({"bad_words": ["a"] * MANY}, "bad_words"),
        ({"logit_bias": {str(each): 1 for each in range(20_000)}}, "logit_bias"),
        ({"logprob_token_ids": [5] * MANY}, "logprob_token_ids"),
        ({"allowed_token_ids": [5] * 1_000_001}, "allowed_token_ids"),
        ({"prompt_logprobs": 10**9}, "prompt_logprobs"),
    )
]
HUGE += [
    (TEXT, {"prompt": ["a"] * MANY}, "prompt"),
    (TEXT, {"prompt": [[5]] * 40_000}, "prompt"),
    (TEXT, {"prompt": ["a"] * 1000, "n": 100, "temperature": 1}, "n"),
    (TEXT, {"prompt": "Hi", "best_of": 10**9, "temperature": 1}, "best_of"),
    (TEXT, {"prompt": "Hi", "logprobs": 10**9}, "logprobs"),
    (CHAT, {"messages": [USER], "logprobs": True, "top_logprobs": 10**9}, "top_logprobs"),
    (CHAT, {"messages": [USER] * 11_000}, "messages"),
    ("/v1/chat/completions/batch", {"messages": [[USER]] * 2000}, "messages"),
]


@pytest.mark.parametrize(("route", "body", "param"), HUGE)
async def test_cve_2026_34756_huge_counts(
    client: Client, pool: FakePool, route: str, body: dict[str, Any], param: str
) -> None:
    """CVE-2026-34756 (GHSA-3mwp-wvh9-7528): a huge n takes all memory."""
    response = await client.post(route, json=body)
    answer = await response.get_json()
    assert response.status_code == 400, answer
    assert answer["error"]["param"] == param, answer
    assert not pool.requests


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], ["Hi", ""], [[5], []], None])
async def test_cve_2024_8768_empty_prompts(client: Client, pool: FakePool, prompt: Any) -> None:
    """CVE-2024-8768 (GHSA-w2r7-9579-27hf): an empty prompt ends the server."""
    for fields in (
        {},
        {"echo": True, "max_tokens": 0},
        {"stream": True},
        {"truncate_prompt_tokens": 1},
    ):
        response = await client.post(TEXT, json={"prompt": prompt, **fields})
        answer = await response.get_json()
        assert response.status_code == 400, answer
        assert answer["error"]["param"] == "prompt"
    assert not pool.requests


@pytest.mark.parametrize(
    ("route", "body"),
    [
        (TEXT, {}),
        (CHAT, {"messages": []}),
        ("/v1/responses", {"input": []}),
        ("/v1/messages", {"model": "smol", "max_tokens": 5, "messages": []}),
        ("/v1/chat/completions/batch", {"messages": [[]]}),
        ("/invocations", {"prompt": []}),
    ],
)
async def test_cve_2024_8768_empty_chats(
    client: Client, pool: FakePool, route: str, body: dict[str, Any]
) -> None:
    """CVE-2024-8768 (GHSA-w2r7-9579-27hf): the same of chats."""
    response = await client.post(route, json=body)
    assert response.status_code == 400
    assert not pool.requests


PLACEHOLDERS = [
    *SPECIAL,
    *("<image>", "<|image|>", "<|image_pad|>", "<|vision_start|><|video_pad|><|vision_end|>"),
    *("<audio>", "<|audio_bos|><|AUDIO|><|audio_eos|>", "[IMG]", "<start_of_image>", "<s>"),
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]"),
]  # fmt: skip


@pytest.mark.parametrize("said", [*PLACEHOLDERS, "".join(PLACEHOLDERS), SPECIAL[0] * 500])
async def test_cve_2026_44222_placeholders_in_texts(client: Client, said: str) -> None:
    """CVE-2026-44222 (GHSA-hpv8-x276-m59f): special tokens' placeholders in a text end the
    server."""
    message = {"role": "user", "content": said}
    tool = {"type": "function", "function": {"name": "f", "description": said}}
    for route, body in (
        (TEXT, {"prompt": said}),
        (TEXT, {"prompt": [said, said]}),
        (CHAT, {"messages": [message]}),
        (CHAT, {"messages": [{"role": said[:64], "content": said}]}),
        (CHAT, {"messages": [message], "tools": [tool], "tool_choice": "none"}),
        (CHAT, {"messages": [message], "stop": said[:4000], "bad_words": [said[:200]]}),
        ("/v1/messages", {"model": "smol", "max_tokens": 5, "messages": [message]}),
        ("/v1/responses", {"input": said, "instructions": said, "store": False}),
        ("/tokenize", {"prompt": said}),
        ("/tokenize", {"messages": [message]}),
    ):
        response = await client.post(route, json=body)
        assert response.status_code in (200, 400), (route, await response.get_data(as_text=True))
    response = await client.post(CHAT, json={"messages": [USER]})
    assert response.status_code == 200
