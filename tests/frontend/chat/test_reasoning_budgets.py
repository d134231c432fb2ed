"""The budget of reasoning that a worker gets."""

from typing import Any

import pytest

from headrace.protocol.reasoning import FORMATS
from tests.frontend.chat.reasoning_chat import OPENED, QUESTION, SWITCHED, TAGS, Chat, MakeChat


async def budgets(
    served: Chat, path: str = "/v1/chat/completions", **fields: Any
) -> tuple[int, tuple[str, ...], tuple[int, ...], bool] | None:
    """The budget that a worker got, as (tokens, starts, ids of the end, is_open)."""
    status, body = await served.post(path, **fields)
    assert status == 200, body
    sent = served.pool.requests[-1].sampling.thinking_budget
    if sent is None:
        return None
    starts = sent.marks.starts
    assert sent.start_ids == tuple(served.ids(starts[0]) if starts else ())
    assert sent.marks.ends == ("</think>",)
    return sent.tokens, starts, sent.end_ids, sent.is_open


async def test_a_worker_gets_the_budget_and_the_delimiters(chat: MakeChat) -> None:
    served = chat()
    start, end = ("<think>",), tuple(served.ids("</think>"))
    assert len(end) > 1
    assert await budgets(served, thinking_token_budget=7) == (7, start, end, True)
    assert await budgets(served, thinking_token_budget=0) == (0, start, end, True)
    assert await budgets(served, thinking_token_budget=-1) is None
    assert await budgets(served, thinking_token_budget=None) is None
    assert await budgets(served) is None
    off: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}
    assert await budgets(served, thinking_token_budget=7, **off) == (7, start, end, False)


async def test_the_budget_of_a_prompt_that_begins_or_ends_reasoning(
    chat: MakeChat,
) -> None:
    opened = chat(OPENED, TAGS)
    end = tuple(opened.ids("</think>"))
    assert await budgets(opened, thinking_token_budget=7) == (7, (), end, True)
    switched = chat(SWITCHED)
    assert await budgets(switched, thinking_token_budget=7, reasoning_effort="none") is None


@pytest.mark.parametrize(
    ("prompt", "is_open"),
    [("Hello <think>\nworld", True), ("<think>a</think>b", False), ("Hello", False)],
)
async def test_the_budget_of_completions(chat: MakeChat, prompt: str, is_open: bool) -> None:
    served = chat()
    expected = (5, () if is_open else ("<think>",), tuple(served.ids("</think>")), is_open)
    for form in (prompt, served.ids(prompt)):
        fields = {"prompt": form, "thinking_token_budget": 5}
        assert await budgets(served, "/v1/completions", **fields) == expected
    assert await budgets(served, "/v1/completions", prompt=prompt) is None


@pytest.mark.parametrize(
    ("path", "fields"), [("/v1/chat/completions", {}), ("/v1/completions", {"prompt": "Hello"})]
)
async def test_a_budget_needs_a_parser(chat: MakeChat, path: str, fields: dict[str, Any]) -> None:
    served = chat(parser=None)
    status, body = await served.post(path, thinking_token_budget=5, **fields)
    assert (status, body["error"]["param"]) == (400, "thinking_token_budget")
    assert "--reasoning-parser" in body["error"]["message"]
    assert served.pool.requests == []
    status, _ = await served.post(path, thinking_token_budget=-1, **fields)
    assert status == 200


@pytest.mark.parametrize("parser", ["qwen3", None])
async def test_the_budget_of_messages_is_held_where_it_can_be(
    chat: MakeChat, parser: str | None
) -> None:
    served = chat(parser=FORMATS[parser] if parser else None)
    fields = {
        "model": "smol",
        "max_tokens": 50,
        "messages": QUESTION,
        "thinking": {"type": "enabled", "budget_tokens": 7},
    }
    budget = await budgets(served, "/v1/messages", **fields)
    assert (budget and budget[0]) == (7 if parser else None)


@pytest.mark.parametrize("tokens", [0, 5])
async def test_texts_of_beam_search_have_no_budget(chat: MakeChat, tokens: int) -> None:
    served = chat()
    beams: dict[str, Any] = {"use_beam_search": True, "max_tokens": 4}
    status, body = await served.post(thinking_token_budget=tokens, **beams)
    assert (status, body["error"]["param"]) == (400, "thinking_token_budget")
    assert served.pool.requests == []


@pytest.mark.parametrize("value", [-2, 2**31, 1.5, "5", True])
async def test_budgets_that_are_none(chat: MakeChat, value: Any) -> None:
    status, body = await chat().post(thinking_token_budget=value)
    assert status == 400
    assert body["error"]["param"].removeprefix("body.") == "thinking_token_budget"
