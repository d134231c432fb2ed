import json
from typing import Any

import pytest
from quart import Response
from quart.typing import TestClientProtocol as Client

from headrace.frontend.pool.interface import PoolBusy, PoolUnavailable, RequestLost, RequestRejected
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.to_frontend import FinishReason
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool, logprobs_of
from tests.frontend.text.tokenizers_for_tests import EOS

PATH = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."


async def ask(client: Client, **fields: Any) -> tuple[Response, dict[str, Any]]:
    response = await client.post(PATH, json={"messages": QUESTION, **fields})
    return response, await response.get_json()


async def stream(client: Client, **fields: Any) -> list[dict[str, Any]]:
    """The stream's events, [DONE] left out."""
    response = await client.post(PATH, json={"messages": QUESTION, "stream": True, **fields})
    assert response.status_code == 200, await response.get_data(as_text=True)
    lines = (await response.get_data(as_text=True)).strip().split("\n\n")
    assert lines[-1] == "data: [DONE]"
    assert lines.count("data: [DONE]") == 1
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def text_of(events: list[dict[str, Any]], index: int = 0) -> str:
    choices = [choice for event in events for choice in event["choices"]]
    return "".join(c["delta"].get("content", "") for c in choices if c["index"] == index)


async def test_answers_in_one_piece(client: Client, pool: FakePool) -> None:
    response, body = await ask(client)
    assert response.status_code == 200
    assert body["choices"][0]["message"]["content"] == ANSWER
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["prompt_tokens"] == len(pool.requests[0].prompt_token_ids)
    assert body["usage"]["completion_tokens"] == 8
    assert body["model"] == "smol"


async def test_usage_says_what_the_prefix_cache_gave_and_got(
    client: Client, pool: FakePool
) -> None:
    pool.cached_tokens, pool.written_tokens = 5, 3
    _, body = await ask(client, n=2, temperature=1)
    found = body["usage"]["prompt_tokens_details"]
    assert (found["cached_tokens"], found["created_cache_tokens"]) == (5, 3)


async def test_streams_role_then_text_then_end_then_usage(client: Client) -> None:
    events = await stream(client, stream_options={"include_usage": True})
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text_of(events) == ANSWER
    reasons = [event["choices"][0]["finish_reason"] for event in events[:-1]]
    assert reasons == [None] * (len(events) - 2) + ["stop"]
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 8


async def test_tokens_that_come_together_go_in_one_chunk(client: Client, pool: FakePool) -> None:
    pool.per_output = 100
    events = await stream(client)
    assert len(events) == 2
    assert text_of(events) == ANSWER


async def test_usage_in_every_chunk(client: Client) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = await stream(client, stream_options=options)
    usages = [event["usage"] for event in events]
    assert [usage["completion_tokens"] for usage in usages] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8]
    for usage in usages:
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def test_usage_in_the_chunks_before_any_output_counts_none(
    client: Client, pool: FakePool
) -> None:
    pool.per_output = 3
    options = {"include_usage": True, "continuous_usage_stats": True}
    asked: dict[str, Any] = {"echo": True, "add_generation_prompt": False, "n": 2}
    messages = [*QUESTION, {"role": "assistant", "content": "Well: "}]
    continues = {"continue_final_message": True}
    events = await stream(
        client, messages=messages, stream_options=options, temperature=1, **asked, **continues
    )
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts[:5] == [0, 0, 0, 0, 3]


async def test_the_prompt_is_the_rendered_chat(
    client: Client, pool: FakePool, text: ModelTokenizer
) -> None:
    await ask(client, messages=[{"role": "system", "content": "S"}, *QUESTION])
    prompt = text.backend.decode(pool.requests[0].prompt_token_ids, skip_special_tokens=False)
    assert prompt == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nWhat is the capital of France?"
        "<|im_end|>\n<|im_start|>assistant\n"
    )


async def test_text_parts_are_joined(client: Client, pool: FakePool, text: ModelTokenizer) -> None:
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "world"}]
    await ask(client, messages=[{"role": "user", "content": parts}])
    prompt = text.backend.decode(pool.requests[0].prompt_token_ids)
    assert "user\nHello\nworld\n" in prompt


async def test_parts_of_all_textual_types_are_text(
    client: Client, pool: FakePool, text: ModelTokenizer
) -> None:
    parts: list[Any] = [
        {"type": "input_text", "text": "a"},
        {"type": "output_text", "text": "b", "annotations": [], "logprobs": []},
        {"type": "thinking", "thinking": "c", "signature": "s"},
        {"type": "refusal", "refusal": "d"},
        {"type": "text", "text": "e", "cache_control": {"type": "ephemeral"}},
        {"text": "f"},
        "g",
    ]
    response, body = await ask(client, messages=[{"role": "user", "content": parts}])
    assert response.status_code == 200, body
    prompt = text.backend.decode(list(pool.requests[0].prompt_token_ids), skip_special_tokens=False)
    assert "user\na\nb\nc\nd\ne\nf\ng<" in prompt


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video_url", "input_image"])
async def test_parts_that_are_no_text_are_refused_by_type(client: Client, kind: str) -> None:
    content = [{"type": "text", "text": "x"}, {"type": kind, kind: {"url": "data:,"}}]
    response, body = await ask(client, messages=[QUESTION[0], {"role": "user", "content": content}])
    assert response.status_code == 400
    assert body["error"]["param"] == "messages.1.content"
    assert repr(kind) in body["error"]["message"]


@pytest.mark.parametrize(
    ("effort", "shown"),
    [("default", "M"), ("auto", "M"), (None, "M"), ("disable", "Mnone"), ("high", "Mhigh")],
)
async def test_words_for_efforts(
    make_app: MAKE_APP, text: ModelTokenizer, pool: FakePool, effort: str | None, shown: str
) -> None:
    info = text.info.model_copy(update={"chat_template": "M{{ reasoning_effort }}"})
    client = make_app(type(text)(info, text.backend)).test_client()
    response, body = await ask(client, reasoning_effort=effort)
    assert response.status_code == 200, body
    assert text.backend.decode(list(pool.requests[0].prompt_token_ids)) == shown


async def test_an_answer_can_be_sent_back_as_a_message(client: Client) -> None:
    _, body = await ask(client)
    message = body["choices"][0]["message"]
    response, _ = await ask(client, messages=[*QUESTION, message, *QUESTION])
    assert response.status_code == 200


async def test_the_context_is_the_default_limit(client: Client, pool: FakePool) -> None:
    await ask(client)
    request = pool.requests[0]
    assert request.sampling.max_tokens == 2048 - len(request.prompt_token_ids)


async def test_max_completion_tokens_goes_first(client: Client, pool: FakePool) -> None:
    _, body = await ask(client, max_tokens=5, max_completion_tokens=2)
    assert pool.requests[0].sampling.max_tokens == 2
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["choices"][0]["message"]["content"] == "The capital"


@pytest.mark.parametrize("stop", ["Paris", ["Nowhere", "ance is Pa"], ["s Paris.", "Paris"]])
@pytest.mark.parametrize("include", [True, False])
async def test_stop_strings_end_the_text(
    client: Client, pool: FakePool, stop: list[str] | str, include: bool
) -> None:
    _, body = await ask(client, stop=stop, include_stop_str_in_output=include)
    choice = body["choices"][0]
    met = choice["stop_reason"]
    end = ANSWER.index(met) + (len(met) if include else 0)
    assert choice["message"]["content"] == ANSWER[:end]
    assert choice["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == 6 + (met == "s Paris.")
    assert pool.streams[0].cancelled
    events = await stream(client, stop=stop, include_stop_str_in_output=include)
    assert text_of(events) == ANSWER[:end]
    assert events[-1]["choices"][0]["stop_reason"] == met


async def test_text_that_only_might_have_been_a_stop_is_shown(client: Client) -> None:
    events = await stream(client, stop=["Paris. And"])
    assert text_of(events) == ANSWER


async def test_stop_strings_count_from_min_tokens_on(client: Client) -> None:
    _, body = await ask(client, stop="capital", min_tokens=2)
    assert body["choices"][0]["message"]["content"] == ANSWER
    _, body = await ask(client, stop="capital", min_tokens=1)
    assert body["choices"][0]["message"]["content"] == "The "


@pytest.mark.parametrize("include", [False, True])
async def test_a_stop_string_may_begin_within_min_tokens(client: Client, include: bool) -> None:
    stop, asked = "e capital o", {"min_tokens": 1, "include_stop_str_in_output": include}
    shown = "The capital o" if include else "Th"
    _, body = await ask(client, stop=stop, **asked)
    (choice,) = body["choices"]
    assert choice["message"]["content"] == shown
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    assert text_of(await stream(client, stop=stop, **asked)) == shown


async def test_of_stop_strings_with_one_end_the_first_in_the_list_counts(client: Client) -> None:
    for stop in (["capital", "The capital"], ["The capital", "capital"]):
        _, body = await ask(client, stop=stop)
        assert body["choices"][0]["stop_reason"] == stop[0]
        assert body["choices"][0]["message"]["content"] == "The capital".removesuffix(stop[0])


async def test_stop_tokens_are_named_and_not_shown(client: Client, text: ModelTokenizer) -> None:
    token_id = text.backend.encode(" France").ids[0]
    _, body = await ask(client, stop_token_ids=[token_id])
    choice = body["choices"][0]
    assert choice["message"]["content"] == "The capital of"
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", token_id)


async def test_ignore_eos(client: Client, pool: FakePool) -> None:
    pool.reply = lambda request: [EOS, 300, EOS]
    _, body = await ask(client, ignore_eos=True, skip_special_tokens=False)
    assert pool.requests[0].sampling.eos_token_ids == ()
    assert body["choices"][0]["message"]["content"].count("<|im_end|>") == 2


async def test_special_tokens_are_skipped_unless_wanted(client: Client, pool: FakePool) -> None:
    pool.reply = lambda request: [1, EOS]
    _, body = await ask(client)
    assert body["choices"][0]["message"]["content"] == ""
    _, body = await ask(client, skip_special_tokens=False)
    assert body["choices"][0]["message"]["content"] == "<|im_start|>"


async def test_choices_differ_by_seed_only(client: Client, pool: FakePool) -> None:
    _, body = await ask(client, n=3, temperature=1, seed=7)
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    seeds = [request.sampling.seed for request in pool.requests]
    assert seeds[0] == 7
    assert len(set(seeds)) == 3
    assert body["usage"]["completion_tokens"] == 24
    await ask(client, n=3, temperature=1, seed=7)
    assert [request.sampling.seed for request in pool.requests[3:]] == seeds
    events = await stream(client, n=3, temperature=1)
    assert [text_of(events, index) for index in range(3)] == [ANSWER] * 3
    ends = [event for event in events if event["choices"][0]["finish_reason"]]
    assert len(ends) == 3


async def test_seeds_are_definite_and_random_without_one(client: Client, pool: FakePool) -> None:
    await ask(client)
    await ask(client)
    await ask(client, seed=-1)
    seeds = [request.sampling.seed for request in pool.requests]
    assert seeds[0] != seeds[1]
    assert all(0 <= seed < 2**63 for seed in seeds)


async def test_sampling_fields_reach_the_worker(client: Client, pool: FakePool) -> None:
    fields = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.25,
        "frequency_penalty": -0.25,
        "min_tokens": 2,
        "max_tokens": 9.0,
        "seed": 2**63 - 1,
    }
    await ask(client, **fields, priority=3, cache_salt="salt", user="tenant")
    request = pool.requests[0]
    for name, value in fields.items():
        assert getattr(request.sampling, name) == value
    assert (request.priority, request.cache_salt, request.tenant) == (3, "salt", "tenant")


async def test_log_probabilities(client: Client, text: ModelTokenizer) -> None:
    _, body = await ask(client, logprobs=True, top_logprobs=2, max_tokens=2)
    content = body["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["The", " capital"]
    first = text.backend.encode("The").ids[0]
    assert content[0]["logprob"] == logprobs_of(first, 2).logprob
    assert content[0]["bytes"] == list(b"The")
    assert len(content[0]["top_logprobs"]) == 2
    events = await stream(client, logprobs=True, top_logprobs=2, max_tokens=2)
    streamed = [e["choices"][0]["logprobs"] for e in events if e["choices"][0]["logprobs"]]
    assert [entry for part in streamed for entry in part["content"]] == content


async def test_log_probabilities_of_impossible_tokens_are_json(
    client: Client, pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowest = logprobs_of(5, 1).__class__(5, float("-inf"), 9, (5,), (float("-inf"),))
    monkeypatch.setattr("tests.frontend.fake_pool.logprobs_of", lambda token_id, top, named: lowest)
    _, body = await ask(client, logprobs=True, top_logprobs=1, max_tokens=1)
    assert body["choices"][0]["logprobs"]["content"][0]["logprob"] == -9999.0


async def test_token_ids_are_returned(client: Client, pool: FakePool, text: ModelTokenizer) -> None:
    _, body = await ask(client, return_token_ids=True, return_prompt_text=True)
    assert body["prompt_token_ids"] == list(pool.requests[0].prompt_token_ids)
    assert body["choices"][0]["token_ids"] == [*text.backend.encode(ANSWER).ids, EOS]
    assert body["prompt_text"].endswith("<|im_start|>assistant\n")
    events = await stream(client, return_token_ids=True)
    assert events[0]["prompt_token_ids"] == body["prompt_token_ids"]
    ids = [id_ for event in events[1:] for id_ in event["choices"][0]["token_ids"]]
    assert ids == body["choices"][0]["token_ids"]


async def test_a_final_message_is_continued_and_echoed(
    client: Client, pool: FakePool, text: ModelTokenizer
) -> None:
    messages = [*QUESTION, {"role": "assistant", "content": "Well: "}]
    fields = {
        "messages": messages,
        "continue_final_message": True,
        "add_generation_prompt": False,
        "echo": True,
    }
    _, body = await ask(client, **fields)
    prompt = text.backend.decode(pool.requests[0].prompt_token_ids, skip_special_tokens=False)
    assert prompt.endswith("<|im_start|>assistant\nWell: ")
    assert body["choices"][0]["message"]["content"] == "Well: " + ANSWER
    assert text_of(await stream(client, **fields)) == "Well: " + ANSWER


async def test_template_variables(make_app: MAKE_APP, text: ModelTokenizer, pool: FakePool) -> None:
    info = text.info.model_copy(update={"chat_template": "{{ mood }}{{ reasoning_effort }}"})
    client = make_app(type(text)(info, text.backend)).test_client()
    response, _ = await ask(client, chat_template_kwargs={"mood": "M"}, reasoning_effort="low")
    assert response.status_code == 200
    assert text.backend.decode(pool.requests[0].prompt_token_ids) == "Mlow"
    response, body = await ask(client, chat_template_kwargs={"messages": []})
    assert response.status_code == 400
    assert body["error"]["param"] == "chat_template_kwargs"


async def test_models_without_a_template_take_no_chats(
    make_app: MAKE_APP, text: ModelTokenizer
) -> None:
    info = text.info.model_copy(update={"chat_template": None})
    response, body = await ask(make_app(type(text)(info, text.backend)).test_client())
    assert response.status_code == 400
    assert "chat template" in body["error"]["message"]


async def test_the_models_own_sampling_defaults(
    make_app: MAKE_APP, text: ModelTokenizer, pool: FakePool
) -> None:
    defaults = {"temperature": 0.0, "top_k": 50.0, "max_new_tokens": 3.0}
    info = text.info.model_copy(update={"generation_defaults": defaults})
    client = make_app(type(text)(info, text.backend)).test_client()
    await ask(client)
    await ask(client, temperature=1.0, top_k=-1, max_tokens=7)
    first, second = (request.sampling for request in pool.requests)
    assert (first.temperature, first.top_k, first.max_tokens) == (0.0, 50, 3)
    assert (second.temperature, second.top_k, second.max_tokens) == (1.0, 0, 7)


@pytest.mark.parametrize(
    ("path", "fields", "field"),
    [
        ("/v1/chat/completions", {"messages": QUESTION}, "max_tokens"),
        ("/v1/chat/completions", {"messages": QUESTION}, "max_completion_tokens"),
        ("/v1/completions", {"prompt": "a"}, "max_tokens"),
        ("/v1/messages", {"messages": QUESTION, "model": "smol"}, "max_tokens"),
        ("/v1/responses", {"input": "a", "store": False}, "max_output_tokens"),
    ],
    ids=str,
)
async def test_lengths_of_the_model_and_of_the_operator(
    make_app: MAKE_APP,
    text: ModelTokenizer,
    pool: FakePool,
    path: str,
    fields: dict[str, Any],
    field: str,
) -> None:
    """The model's is a default where the API has none; the operator's limits every output."""

    async def lengths(**update: Any) -> list[int]:
        info = text.info.model_copy(update=update)
        client = make_app(type(text)(info, text.backend)).test_client()
        bodies = [{**fields, field: 9}] + ([fields] if path != "/v1/messages" else [])
        for body in bodies:
            response = await client.post(path, json=body)
            assert response.status_code == 200, await response.get_data(as_text=True)
        found = [request.sampling.max_tokens for request in pool.requests]
        pool.requests.clear()
        return found

    own_default = 16 if path == "/v1/completions" else 3
    of_model = await lengths(generation_defaults={"max_new_tokens": 3.0})
    assert of_model == [9, own_default][: len(of_model)]
    of_both = await lengths(generation_defaults={"max_new_tokens": 3.0}, max_output_tokens=4)
    assert of_both == [4, min(4, own_default)][: len(of_both)]


@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        (PoolUnavailable("none is ready", 2.5), 503, "Service Unavailable"),
        (PoolBusy("all are full"), 429, "Too Many Requests"),
        (RequestRejected("too odd"), 400, "BadRequestError"),
        (RequestLost("lost"), 500, "InternalServerError"),
        (RuntimeError("/secret 0x7f00"), 500, "InternalServerError"),
    ],
)
async def test_failures_before_the_first_token_have_a_status(
    client: Client, pool: FakePool, failure: Any, status: int, kind: str
) -> None:
    pool.failure = failure
    for fields in ({}, {"stream": True}, {"n": 2}, {"n": 2, "stream": True}):
        response, body = await ask(client, **fields)
        assert response.status_code == status
        assert body["error"]["type"] == kind
        assert "secret" not in body["error"]["message"]
        if status in (429, 503):
            assert int(response.headers["Retry-After"]) >= 1


ASKED_FOR = [{}, {"n": 2}, {"use_beam_search": True}]


@pytest.mark.parametrize("fields", [*ASKED_FOR, {"stream": True}, {"n": 2, "stream": True}])
@pytest.mark.parametrize(("reason", "status"), [("rejected", 400), ("error", 500)])
async def test_texts_that_nothing_can_follow(
    client: Client, pool: FakePool, fields: dict[str, Any], reason: FinishReason, status: int
) -> None:
    """What the request asks for may be at fault, or the model."""
    pool.reason, pool.error, pool.reply = reason, "no token can follow", lambda _: [7]
    response, body = await ask(client, **fields)
    assert response.status_code == status
    assert body["error"]["message"] == "no token can follow"
    assert body["error"]["code"] == status


async def test_texts_that_nothing_can_follow_any_more(client: Client, pool: FakePool) -> None:
    pool.reason, pool.error, pool.reply = "rejected", "no token can follow", lambda _: [7, 8, 9]
    *_, last = await stream(client)
    assert last["error"] == {
        "message": "no token can follow", "type": "BadRequestError", "param": None, "code": 400
    }  # fmt: skip


@pytest.mark.parametrize("fields", [{}, {"n": 2}])
async def test_failures_later_are_one_event(
    client: Client, pool: FakePool, fields: dict[str, Any]
) -> None:
    pool.failure, pool.fail_after = RequestLost("the workers died"), 3
    events = await stream(client, **fields)
    errors = [event for event in events if "error" in event]
    assert errors == events[-1:]
    assert errors[0]["error"]["message"] == "the workers died"
    assert errors[0]["error"]["code"] == 500
    response, _ = await ask(client, **fields)
    assert response.status_code == 500
