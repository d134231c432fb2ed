"""Chats of models that reason, in one piece and streamed, on a pool that says what a test wants."""

from typing import Any

import pytest

from headrace.protocol.reasoning import FORMATS, ReasoningFormat
from tests.frontend.chat.detection.test_found_formats import CALLS, chat_ml
from tests.frontend.chat.reasoning_chat import (
    ANSWER,
    EFFORT,
    OPENED,
    QUESTION,
    SWITCHED,
    TAGS,
    THINKING,
    THOUGHT,
    WHOLE,
    MakeChat,
)
from tests.frontend.text.tokenizers_for_tests import CHAT_TEMPLATE

MARKS: list[dict[str, list[str]]] = [
    {},
    {"added": ["<think>", "</think>"]},
    {"special": ["<think>", "</think>"]},
]


@pytest.mark.parametrize("tokens", MARKS, ids=["several tokens", "one token", "special"])
@pytest.mark.parametrize("size", [1, 3, 100])
async def test_reasoning_and_content_are_told_apart(
    chat: MakeChat, tokens: dict[str, Any], size: int
) -> None:
    served = chat(**tokens)
    served.pool.per_output = size
    assert await served.message() == (THOUGHT, ANSWER)
    _, body = await served.post(n=2)
    assert [one["message"]["reasoning"] for one in body["choices"]] == [THOUGHT] * 2
    assert body["choices"][0]["finish_reason"] == "stop"


async def test_without_a_parser_all_is_content(chat: MakeChat) -> None:
    assert await chat(parser=None).message() == (None, WHOLE)


@pytest.mark.parametrize("tokens", MARKS, ids=["several tokens", "one token", "special"])
async def test_reasoning_that_is_not_wanted_is_counted_and_left_out(
    chat: MakeChat, tokens: dict[str, Any]
) -> None:
    served = chat(**tokens)
    assert await served.message(include_reasoning=False) == (None, ANSWER)
    _, body = await served.post(include_reasoning=False)
    assert body["usage"]["completion_tokens"] == len(served.ids(WHOLE)) + 1
    served.reply = THOUGHT
    assert await served.message(include_reasoning=False) == (None, None)


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("n", [1, 3])
async def test_usage_tells_the_tokens_of_reasoning(chat: MakeChat, include: bool, n: int) -> None:
    served = chat(added=["<think>", "</think>"])
    fields: dict[str, Any] = {"include_reasoning": include, "n": n}
    _, body = await served.post(**fields)
    details = {"reasoning_tokens": n * len(served.ids(THOUGHT))}
    assert body["usage"]["completion_tokens_details"] == details
    options = {"include_usage": True, "continuous_usage_stats": True}
    _, events = await served.post(stream=True, stream_options=options, **fields)
    assert events[-1]["usage"] == body["usage"]
    so_far = [event["usage"]["completion_tokens_details"]["reasoning_tokens"] for event in events]
    assert so_far == sorted(so_far)
    off: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}
    served.reply = "Hello"
    _, body = await served.post(**off)
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}
    _, body = await chat(parser=None).post()
    assert "completion_tokens_details" not in body["usage"]


# What the model writes, and what is made of it where the prompt says nothing.
PLAIN = "Hello world."
ENDED = f"{THOUGHT}</think>{ANSWER}"


@pytest.mark.parametrize(
    ("parser", "reply", "expected"),
    [
        (FORMATS["deepseek_r1"], WHOLE, (THOUGHT, ANSWER)),
        (FORMATS["deepseek_r1"], ENDED, (THOUGHT, ANSWER)),
        (FORMATS["deepseek_r1"], PLAIN, (PLAIN, None)),
        (FORMATS["qwen3"], ENDED, (THOUGHT, ANSWER)),
        (FORMATS["qwen3"], PLAIN, (PLAIN, None)),
        (FORMATS["qwen3"], f"{THOUGHT}<tool_call>x", (f"{THOUGHT}<tool_call>x", None)),
        (FORMATS["deepseek_v3"], PLAIN, (None, PLAIN)),
        (TAGS, WHOLE, (THOUGHT, ANSWER)),
        (TAGS, ENDED, (None, ENDED)),
        (TAGS, PLAIN, (None, PLAIN)),
    ],
)
async def test_how_an_answer_begins(
    chat: MakeChat,
    parser: ReasoningFormat,
    reply: str,
    expected: tuple[str | None, str | None],
) -> None:
    served = chat(parser=parser)
    served.reply = reply
    assert await served.message() == expected


@pytest.mark.parametrize("parser", THINKING)
@pytest.mark.parametrize("added", [[], ["<think>", "</think>"]])
async def test_the_prompt_can_have_begun_the_reasoning(
    chat: MakeChat, parser: ReasoningFormat, added: list[str]
) -> None:
    served = chat(OPENED, parser, added=added)
    served.reply = ENDED
    assert await served.message() == (THOUGHT, ANSWER)
    # As many tokens as there are, so that nothing is cut off but the text cannot be relied on.
    assert await served.message(truncate_prompt_tokens=2000) == (THOUGHT, ANSWER)
    served.reply = PLAIN
    assert await served.message() == (PLAIN, None)


@pytest.mark.parametrize("parser", THINKING)
async def test_the_prompt_can_have_ended_the_reasoning(
    chat: MakeChat, parser: ReasoningFormat
) -> None:
    served = chat(SWITCHED, parser)
    served.reply = PLAIN
    assert await served.message(chat_template_kwargs={"enable_thinking": False}) == (None, PLAIN)
    assert await served.message(reasoning_effort="none") == (None, PLAIN)


async def test_thinking_that_is_switched_off_is_not_assumed(chat: MakeChat) -> None:
    """Though the template does not know the switch. Text between delimiters is still reasoning."""
    served = chat()
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    assert await served.message(**off) == (THOUGHT, ANSWER)
    served.reply = PLAIN
    assert await served.message(**off) == (None, PLAIN)


@pytest.mark.parametrize("said", ["</think>", "<think>"])
async def test_delimiters_that_a_user_writes_change_nothing(chat: MakeChat, said: str) -> None:
    served = chat(parser=TAGS)
    served.reply = ENDED
    messages = [{"role": "user", "content": f"{said} What is {said}"}]
    assert await served.message(messages=messages) == (None, ENDED)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("The answer", (None, ENDED)),
        ("<think>\nHello", (THOUGHT, ANSWER)),
        ("<think>\nHello</think>The", (None, ENDED)),
    ],
)
@pytest.mark.parametrize("parser", THINKING)
async def test_a_final_message_that_is_continued(
    chat: MakeChat,
    parser: ReasoningFormat,
    content: str,
    expected: tuple[str | None, str],
) -> None:
    served = chat(parser=parser)
    served.reply = ENDED
    messages = [*QUESTION, {"role": "assistant", "content": content}]
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    assert await served.message(messages=messages, **fields) == expected


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"reasoning_effort": "low"}, "[low True]"),
        ({"reasoning_effort": "none"}, "[none False]"),
        (
            {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}},
            "[low False]",
        ),
        ({"chat_template_kwargs": {"reasoning_effort": "max"}}, "[max ]"),
    ],
)
async def test_templates_are_told_the_effort(
    chat: MakeChat, fields: dict[str, Any], shown: str
) -> None:
    _, body = await chat(EFFORT).post(return_prompt_text=True, **fields)
    assert body["prompt_text"].endswith(shown)


# Budgets


@pytest.mark.parametrize(
    ("template", "parser", "is_after"),
    [(OPENED, "qwen3", True), (CHAT_TEMPLATE, "qwen3", True), (SWITCHED, "qwen3", False)],
)
async def test_the_form_of_an_answer_holds_after_its_reasoning(
    chat: MakeChat, template: str, parser: str, is_after: bool
) -> None:
    served = chat(template, FORMATS[parser])
    fields: dict[str, Any] = {"structured_outputs": {"choice": ["Paris", "London"]}}
    if template is SWITCHED:
        fields["chat_template_kwargs"] = {"enable_thinking": False}
    status, body = await served.post(**fields)
    assert status == 200, body
    expected = ("</think>",) if is_after else ()
    assert served.pool.requests[0].grammar is not None
    assert served.pool.requests[0].grammar.after == expected


# Formats with texts and layouts of their own


FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
JSON_CALL = '{"name": "f", "arguments": {}}'


@pytest.mark.parametrize("size", [1, 4, 1000])
async def test_thinking_that_mentions_a_call_goes_on(chat: MakeChat, size: int) -> None:
    served = chat(parser=FORMATS["qwen3"], tool_call_parser="hermes")
    served.pool.per_output = size
    thought = "I could write <tool_call> here, or <tool_call>{}."
    for rest, calls in (("Paris.", 0), (f"<tool_call>{JSON_CALL}</tool_call>", 1)):
        served.reply = f"<think>{thought}</think>{rest}"
        _, body = await served.post(tools=[FUNCTION])
        message = body["choices"][0]["message"]
        assert message["reasoning"] == thought
        assert message["content"] == (None if calls else rest)
        assert len(message.get("tool_calls") or ()) == calls
    served.reply = f"<think>{thought}<tool_call>\n{JSON_CALL}\n</tool_call>"
    _, body = await served.post(tools=[FUNCTION])
    message = body["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == (thought, None)
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["f"]


FINAL = "<|channel|>final<|message|>"
HARMONY = (
    "<|channel|>analysis<|message|>Think.<|end|>"
    "<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
    "<|start|>assistant<|channel|>analysis<|message|>More.<|end|>"
    f"<|start|>assistant{FINAL}Paris."
)
HARMONY_TOKENS = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"]


@pytest.mark.parametrize(
    ("name", "reply", "expected"),
    [
        ("granite", "Here is my thought process: Hm. Here is my response: A", (" Hm. ", " A")),
        ("granite", "Here's my thought process: Hm. Here's my response: A", (" Hm. ", " A")),
        ("granite", "Here is my answer", (None, "Here is my answer")),
        ("seed_oss", "<seed:think>Hm</seed:think>A", ("Hm", "A")),
        ("mistral", "[THINK]Hm[/THINK]A", ("Hm", "A")),
        ("gemma4", "<|channel>thought\nHm<channel|>A", ("Hm", "A")),
        ("gemma4", "<|channel>thought<channel|>A", (None, "A")),
        ("gemma4", "A", (None, "A")),
        ("hunyuan_a13b", "<think>\nHm\n</think>\n<answer>\nA\n</answer>", ("Hm", "A")),
        ("hunyuan_a13b", "<think>\n\n</think>\n<answer>\nA</answer>", (None, "A")),
        ("hunyuan_a13b", "A </answer>", (None, "A </answer>")),
        ("ernie45", "Hm\n</think>\n\n<response>\nA\n</response>\n", ("Hm\n", "A\n")),
        ("ernie45", "Hm</think>\nA", ("Hm", "\nA")),
        ("glm45", "<think>Hm\n</think>\nA", ("Hm", "\nA")),
        ("minimax_m2", "Hm\n</think>\n\nA", ("Hm", "\n\nA")),
        ("kimi_k3", "Hm<|close|>think<|sep|><|open|>response<|sep|>A", ("Hm", "A")),
        ("k2_horizon", "<ifm|think_fast>Hm</ifm|think_fast>A", ("Hm", "A")),
        ("openai_gptoss", HARMONY, ("Think.\nMore.", "I look.\nParis.")),
        ("openai_gptoss", f"{FINAL}A", (None, "A")),
        ("openai_gptoss", "<|channel|>analysis<|message|>Hm", ("Hm", None)),
        ("openai_gptoss", "<|channel|>analysis<|mess", (None, None)),
        ("openai_gptoss", f"{FINAL}A<", (None, "A<")),
        ("openai_gptoss", "A plain answer", (None, "A plain answer")),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("is_special", [False, True])
async def test_formats_with_texts_of_their_own(
    chat: MakeChat,
    name: str,
    reply: str,
    expected: tuple[str | None, str | None],
    size: int,
    is_special: bool,
) -> None:
    marks = [*FORMATS[name].starts, *FORMATS[name].ends] if name != "granite" else []
    special = HARMONY_TOKENS if name == "openai_gptoss" else marks
    served = chat(parser=FORMATS[name], special=special if is_special else [])
    served.pool.per_output = size
    served.reply = reply
    assert await served.message() == expected


async def test_a_tokenizer_s_suffix_of_tags(chat: MakeChat) -> None:
    served = chat(parser=FORMATS["hy_v3"], special=["<think:abc>", "</think:abc>"])
    served.reply = "<think:abc>Hm</think:abc>A"
    assert await served.message() == ("Hm", "A")


async def test_a_start_that_the_prompt_has_is_shown_again(chat: MakeChat) -> None:
    served = chat(OPENED, FORMATS["minimax_m2_append_think"])
    served.reply = ENDED
    assert await served.message() == (None, f"<think>{ENDED}")


async def test_the_grammar_of_harmony_holds_in_the_final_message(chat: MakeChat) -> None:
    served = chat(parser=FORMATS["openai_gptoss"])
    await served.post(structured_outputs={"choice": ["Paris"]}, thinking_token_budget=9)
    request = served.pool.requests[0]
    assert request.grammar is not None
    assert FINAL in request.grammar.after
    assert request.sampling.thinking_budget is not None
    forced = served.text.backend.decode(list(request.sampling.thinking_budget.end_ids))
    assert forced == f"<|end|><|start|>assistant{FINAL}"


# Formats that the chat template tells


HERMES = chat_ml(CALLS["hermes"], prompt="{{ '</think>' if enable_thinking is false }}")


async def test_a_template_that_tells_its_formats_needs_no_flags(chat: MakeChat) -> None:
    served = chat(HERMES, "auto", tool_call_parser="auto")
    served.reply = f"<think>{THOUGHT}</think><tool_call>{JSON_CALL}</tool_call>"
    _, body = await served.post(tools=[FUNCTION], thinking_token_budget=500)
    message = body["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == (THOUGHT, None)
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["f"]
    assert served.pool.requests[0].sampling.thinking_budget is not None
    _, body = await served.post("/v1/completions", prompt="x<think>", thinking_token_budget=5)
    assert served.pool.requests[-1].sampling.thinking_budget is not None


async def test_a_template_that_tells_nothing_changes_nothing(chat: MakeChat) -> None:
    """Answers are as they are without any parser, whatever they look like."""
    for reply in (WHOLE, ENDED, f"<tool_call>{JSON_CALL}</tool_call>"):
        bodies = []
        for parser, tools in (("auto", "auto"), (None, "none")):
            served = chat(CHAT_TEMPLATE, parser, tool_call_parser=tools)
            served.reply = reply
            _, body = await served.post(seed=1)
            bodies.append({**body, "id": "", "created": 0})
        assert bodies[0] == bodies[1]
        assert bodies[0]["choices"][0]["message"]["content"] == reply
    status, body = await served.post(tools=[FUNCTION])
    assert (status, body["error"]["param"]) == (400, "tool_choice")
    assert "--tool-call-parser" in body["error"]["message"]
    status, body = await served.post(thinking_token_budget=5)
    assert (status, body["error"]["param"]) == (400, "thinking_token_budget")


@pytest.mark.parametrize("size", [1, 2, 1000])
@pytest.mark.parametrize(("end", "kept"), [(">\n\n", ""), (">", "\n\n")])
async def test_white_space_in_the_token_that_ends_reasoning_is_not_the_answer_s(
    chat: MakeChat, size: int, end: str, kept: str
) -> None:
    """A grammar holds after this token; what it says itself stays."""
    served = chat(added=[end])
    served.pool.per_output = size
    served.reply = "Hm</think>\n\nParis"
    assert await served.message() == ("Hm", "\n\nParis")
    held = {"structured_outputs": {"choice": ["Paris", "London"]}}
    assert await served.message(**held) == ("Hm", f"{kept}Paris")
