"""logit_bias and similar fields: what workers get, and what is rejected."""

import json
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.generation.choice import Choice
from headrace.frontend.generation.token_constraints import TokenConstraints
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.frontend.text.stop_strings import StopMatcher
from headrace.protocol.config import ServingOptions
from headrace.protocol.sampling import RepetitionRule
from headrace.protocol.to_frontend import Admission, Output
from tests.frontend.asking import QUESTION, ask, complete, rejection
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.frontend.text.tokenizers_for_tests import EOS


async def test_biases_reach_the_worker_within_their_range(client: Client, pool: FakePool) -> None:
    await ask(client, logit_bias={"5": 3, "7": -200.5})
    sampling = pool.requests[0].sampling
    assert (sampling.biased_token_ids, sampling.biases) == ((5, 7), (3.0, -100.0))
    nothings: tuple[dict[str, float] | None, ...] = (None, {})
    for nothing in nothings:
        await complete(client, prompt="Hello", logit_bias=nothing)
        assert pool.requests[-1].sampling.biased_token_ids == ()


async def test_allowed_tokens_and_repetition_reach_the_worker(
    client: Client, pool: FakePool
) -> None:
    asked = {"max_pattern_size": 4, "min_count": 3}
    await ask(client, allowed_token_ids=[9, 5, 9], repetition_detection=asked)
    sampling = pool.requests[0].sampling
    assert sorted(sampling.allowed_token_ids) == [5, 9]
    assert sampling.repetition_detection == RepetitionRule(1, 4, 3)
    await ask(client, repetition_detection={"min_count": 3})
    assert pool.requests[1].sampling.repetition_detection is None


async def test_bad_words_are_tokens_at_the_start_and_after_a_space(
    client: Client, pool: FakePool, text: ModelTokenizer
) -> None:
    await complete(client, prompt=["Hello", "world"], bad_words=["Paris", " capital city"])
    spellings = ["Paris", " Paris", "capital city", " capital city"]
    expected = [tuple(text.backend.encode(s, add_special_tokens=False).ids) for s in spellings]
    for request in pool.requests:
        assert list(request.sampling.bad_words) == expected
    assert any(len(word) > 1 for word in expected)


async def test_named_tokens_take_the_place_of_the_likeliest(client: Client, pool: FakePool) -> None:
    named = [40, 7]
    _, body = await ask(client, logprobs=True, logprob_token_ids=named, max_tokens=2)
    assert pool.requests[0].sampling.logprob_token_ids == (40, 7)
    at = body["choices"][0]["logprobs"]["content"][0]
    assert [entry["logprob"] for entry in at["top_logprobs"]] == [-0.25, -40.0, -7.0]
    assert at["top_logprobs"][0]["token"] == at["token"]
    _, body = await complete(client, prompt="Hello", logprobs=1, logprob_token_ids=named)
    at = body["choices"][0]["logprobs"]["top_logprobs"][0]
    assert list(at.values()) == [-0.25, -40.0, -7.0]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_sampled_token_is_shown_once_also_if_it_is_named(
    client: Client, pool: FakePool, stream: bool
) -> None:
    pool.reply = lambda request: [40, 41]
    fields = {"logprobs": True, "logprob_token_ids": [7, 40], "max_tokens": 2}
    body = {"messages": QUESTION, "stream": stream, "return_tokens_as_token_ids": True, **fields}
    answer = await client.post("/v1/chat/completions", json=body)
    lines = (await answer.get_data(as_text=True)).replace("data: ", "").replace("[DONE]", "")
    choices = [json.loads(line)["choices"][0] for line in lines.split("\n\n") if line]
    entries = [
        entry for choice in choices for entry in (choice["logprobs"] or {}).get("content", [])
    ]
    shown = [[top["token"] for top in entry["top_logprobs"]] for entry in entries]
    ids = [[int(token.removeprefix("token_id:")) for token in tokens] for tokens in shown]
    assert ids == [[40, 7], [41, 7, 40]]


@pytest.mark.parametrize("key", ["2048", "99999", "five", "-1", "1.5", " 1", ""])
async def test_an_error_of_biases_names_the_key(client: Client, key: str) -> None:
    error = await rejection(client, logit_bias={"5": 1, key: 1})
    assert error["param"] == "logit_bias"
    assert repr(key) in error["message"] or f"not {key}." in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logit_bias": {"2048": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"five": 1}}, "logit_bias"),
        ({"logit_bias": {"5": "1"}}, "body.logit_bias"),
        ({"logit_bias": [5]}, "body.logit_bias"),
        ({"logit_bias": {str(n): 1 for n in range(20_000)}}, "logit_bias"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [10**6]}, "allowed_token_ids"),
        ({"allowed_token_ids": [-1]}, "allowed_token_ids"),
        ({"allowed_token_ids": [True]}, "body.allowed_token_ids"),
        ({"allowed_token_ids": [5] * 1_000_001}, "allowed_token_ids"),
        ({"bad_words": [""]}, "bad_words.0"),
        ({"bad_words": ["  "]}, "bad_words"),
        ({"bad_words": ["a"] * 1000}, "bad_words"),
        ({"bad_words": ["a" * 1000]}, "bad_words.0"),
        ({"logprob_token_ids": [5]}, "logprob_token_ids"),
        ({"logprob_token_ids": [10**6], "logprobs": True}, "logprob_token_ids"),
        ({"logprob_token_ids": [5] * 129, "logprobs": True}, "logprob_token_ids"),
        ({"repetition_detection": {"max_pattern_size": 10**6}}, "repetition_detection"),
        ({"repetition_detection": {"max_pattern_size": 2, "min_count": 1}}, "repetition_detection"),
        ({"repetition_detection": {"min_pattern_size": 3}}, "repetition_detection"),
        ({"repetition_detection": {"max_pattern_size": "3"}}, "body.repetition_detection"),
        ({"stream_interval": 0}, "stream_interval"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_what_cannot_be_is_refused_by_name(
    client: Client, pool: FakePool, fields: dict[str, Any], param: str
) -> None:
    assert (await rejection(client, **fields))["param"].startswith(param)
    assert pool.requests == []


async def test_completions_name_their_own_field_of_logprobs(client: Client) -> None:
    response, body = await complete(client, prompt="Hello", logprobs=21)
    assert (response.status_code, body["error"]["param"]) == (400, "logprobs")


async def test_best_of_may_only_repeat_n(client: Client) -> None:
    for fields in ({"best_of": 1}, {"best_of": 2, "n": 2, "temperature": 1}, {"best_of": None}):
        response, _ = await complete(client, prompt="Hello", **fields)
        assert response.status_code == 200
    response, body = await complete(client, prompt="Hello", best_of=3, temperature=1)
    assert (response.status_code, body["error"]["param"]) == (400, "best_of")


async def test_the_operator_says_how_many_logprobs_there_may_be(
    make_app: MAKE_APP, pool: FakePool, text: ModelTokenizer
) -> None:
    size = text.info.vocab_size
    client = make_app(serving=ServingOptions(max_logprobs=-1)).test_client()
    await ask(client, logprobs=True, top_logprobs=-1, max_tokens=1)
    assert pool.requests[-1].sampling.logprobs == size
    await complete(client, prompt="Hello", prompt_logprobs=100, logprobs=50)
    assert pool.requests[-1].sampling.prompt_logprobs == 100
    client = make_app(serving=ServingOptions(max_logprobs=3)).test_client()
    for count in (4, -1):
        assert (await rejection(client, logprobs=True, top_logprobs=count))[
            "param"
        ] == "top_logprobs"


def test_a_text_that_repeats_itself_says_so(text: ModelTokenizer) -> None:
    class Observer:
        def output(self, tokens: int, admission: Admission | None) -> None:
            pass

        def finish(self, reason: str) -> None:
            self.reason = reason

        def leave_unread(self, tokens: int) -> None:
            pass

        def note_client_wait(self, seconds: float) -> None:
            pass

    observer = Observer()
    choice = Choice(0, 0, text.detokenizer(True), StopMatcher((), False), observer)
    ids = tuple(text.backend.encode("ha ha").ids)
    delta = choice.apply(Output("r", ids, 0, "repetition"))
    assert (delta.text, delta.finish_reason) == ("ha ha", "repetition")
    assert delta.stop_reason == "repetition_detected"
    assert observer.reason == "repetition"


async def test_a_list_of_allowed_tokens_may_be_as_long_as_a_vocabulary(
    client: Client, pool: FakePool
) -> None:
    response, _ = await ask(client, allowed_token_ids=[5, EOS] * 100_000)
    assert response.status_code == 200
    assert len(pool.requests) == 1


async def test_an_echoed_chat_tells_of_its_prompt_what_it_tells_of_its_answer(
    client: Client, pool: FakePool
) -> None:
    _, body = await ask(client, echo=True, logprobs=True, top_logprobs=2, max_tokens=2)
    assert pool.requests[0].sampling.prompt_logprobs == 2
    assert len(body["prompt_logprobs"]) == len(pool.requests[0].prompt_token_ids)
    await client.post(
        "/v1/chat/completions",
        json={"messages": QUESTION, "stream": True, "echo": True, "logprobs": True},
    )
    assert pool.requests[1].sampling.prompt_logprobs is None


async def test_an_echo_that_is_continued_has_the_logprobs_of_its_prompt(
    client: Client, pool: FakePool
) -> None:
    """Also where none are requested for the answer: then of its own tokens alone."""
    messages = [*QUESTION, {"role": "assistant", "content": "Well, "}]
    going_on = {"continue_final_message": True, "add_generation_prompt": False, "echo": True}
    _, body = await ask(client, messages=messages, **going_on)
    prompt = pool.requests[0].prompt_token_ids
    assert body["choices"][0]["message"]["content"].startswith("Well, ")
    assert body["choices"][0]["logprobs"] is None
    assert body["prompt_logprobs"][0] is None
    assert [list(entry) for entry in body["prompt_logprobs"][1:]] == [[str(i)] for i in prompt[1:]]
    _, body = await ask(client, messages=messages, **going_on, prompt_logprobs=2)
    assert len(body["prompt_logprobs"][1]) == 2
    _, body = await ask(client, messages=messages, continue_final_message=False)
    assert body["prompt_logprobs"] is None


async def test_long_lists_do_not_go_with_many_texts(
    client: Client, pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(request: Any, model: Any) -> None:
        raise AssertionError("something was made for each of them")

    monkeypatch.setattr(TokenConstraints, "resolve", never)
    fields = {"prompt": ["Hello"] * 8, "n": 100, "temperature": 1}
    response, body = await complete(client, allowed_token_ids=[5] * 10_000, **fields)
    assert (response.status_code, body["error"]["param"]) == (400, "allowed_token_ids")
    assert pool.requests == []


async def test_a_text_that_repeats_itself_is_an_answer_and_is_counted(
    client: Client, pool: FakePool
) -> None:
    pool.reason = "repetition"
    response, body = await ask(client, repetition_detection={"max_pattern_size": 2, "min_count": 3})
    assert response.status_code == 200, body
    assert body["choices"][0]["finish_reason"] == "repetition"
    metrics = await (await client.get("/metrics")).get_data(as_text=True)
    counted = [
        line.split()[-1]
        for line in metrics.splitlines()
        if 'finished_reason="repetition"' in line and "_created" not in line
    ]
    assert counted == ["1.0"]


async def test_all_wrong_names_of_logit_bias_are_named(client: Client) -> None:
    bias = {"bad1": 1, "5": 1, "bad2": 1} | {f"more{n}": 1 for n in range(99)}
    error = await rejection(client, logit_bias=bias)
    assert error["param"] == "logit_bias"
    assert "'bad1', 'bad2'" in error["message"]
    assert len(error["message"]) < 500
