"""/v1/decisions and /v1/systemone on a pool whose log probabilities are known."""

import asyncio
import math
from typing import Any

import pytest
from openai.types import Decision
from quart.typing import TestClientProtocol as Client

from headrace.frontend.decisions.label_tree import LabelTree, normalized
from headrace.frontend.decisions.question import Option, Question, letters
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.to_frontend import Logprobs
from tests.frontend import fake_pool
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool

PREDICATE = {"type": "predicate", "instructions": "Is it broken?"}
CHOICE = {
    "type": "choice",
    "name": "team",
    "instructions": "Whose is it?",
    "choices": [{"value": "returns", "description": "of goods"}, {"value": True}],
}
SCORE = {
    "type": "score",
    "name": "damage",
    "instructions": "How bad?",
    "levels": [{"label": "none"}, {"label": "some"}, {"label": "all"}],
}
ASKED: dict[str, Any] = {"model": "smol", "input": "The box is torn.", "questions": [PREDICATE]}


@pytest.fixture(autouse=True)
def likely(monkeypatch: pytest.MonkeyPatch, text: ModelTokenizer) -> dict[str, float]:
    """How likely the next tokens are, by their text, whatever came before; others: a quarter."""
    chances: dict[str, float] = {}

    def logprobs_of(token_id: int, top: int, named: tuple[int, ...] = ()) -> Logprobs:
        values = [chances.get(text.token_bytes(name).decode(), 0.25) for name in named]
        return Logprobs(named[0], 0.0, 1, named, tuple(map(math.log, values)))

    monkeypatch.setattr(fake_pool, "logprobs_of", logprobs_of)
    return chances


async def decide(client: Client, path: str = "/v1/decisions", **fields: Any) -> Any:
    asked = ASKED if path == "/v1/decisions" else SYSTEM
    response = await client.post(path, json={**asked, **fields})
    assert response.status_code == 200, await response.get_data()
    return await response.get_json()


async def test_answers_have_openais_shape(
    client: Client, pool: FakePool, likely: dict[str, float]
) -> None:
    likely |= {"A": 0.6, "B": 0.2, "0": 0.1, "1": 0.2, "2": 0.5}
    body = await decide(client, questions=[PREDICATE, CHOICE, SCORE])
    assert Decision.model_validate(body, strict=True)
    assert list(body) == ["model", "answers", "usage"]
    predicate, choice, score = body["answers"]
    # "yes" has three tokens in the tests' tokenizer, "no" two.
    probability = 0.25**3 / (0.25**3 + 0.25**2)
    assert predicate == {
        "type": "predicate",
        "name": None,
        "probability": pytest.approx(probability),
    }
    assert choice == {
        "type": "choice",
        "name": "team",
        "choice": "returns",
        "probabilities": [
            {"value": "returns", "probability": pytest.approx(0.75)},
            {"value": True, "probability": pytest.approx(0.25)},
        ],
        "confidence": pytest.approx(0.6),
    }
    assert score == {
        "type": "score",
        "name": "damage",
        "score": pytest.approx((0.2 + 2 * 0.5) / 0.8),
        "probabilities": [
            {"value": 0, "label": "none", "probability": pytest.approx(0.125)},
            {"value": 1, "label": "some", "probability": pytest.approx(0.25)},
            {"value": 2, "label": "all", "probability": pytest.approx(0.625)},
        ],
        "confidence": pytest.approx(0.5),
    }
    # "y" and "n" at once, then two tokens after "y" and one after "n"; the others need one each.
    assert body["usage"]["output_tokens"] == len(pool.requests) == 4 + 1 + 1
    tokens = sum(len(request.prompt_token_ids) for request in pool.requests)
    assert body["usage"]["input_tokens"] == tokens
    assert body["usage"]["total_tokens"] == tokens + 6


async def test_nothing_is_generated_beyond_a_token(client: Client, pool: FakePool) -> None:
    await decide(client, cache_salt="pepper")
    for request in pool.requests:
        assert request.sampling.max_tokens == 1
        assert request.sampling.temperature == 0
        assert request.cache_salt == "pepper"


async def test_the_model_reads_text_question_and_labels(
    client: Client, pool: FakePool, text: ModelTokenizer
) -> None:
    messages = [
        {"role": "user", "content": "One."},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": part} for part in ("Two.", "Three.")],
        },
    ]
    await decide(client, input=messages, questions=[CHOICE])
    prompt = await text.decode(pool.requests[0].prompt_token_ids, skip_special_tokens=False)
    parts = ("One.\n\nTwo.\nThree.", "Whose is it?", 'A: "returns" (of goods)\n', "B: true\n")
    positions = [prompt.index(part) for part in parts]
    assert positions == sorted(positions)


async def test_many_choices_have_two_letters(client: Client, pool: FakePool) -> None:
    choices = [{"value": str(n)} for n in range(100)]
    question = {"type": "choice", "instructions": "Which?", "choices": choices}
    (answer,) = (await decide(client, questions=[question]))["answers"]
    assert len(answer["probabilities"]) == 100
    assert sum(each["probability"] for each in answer["probabilities"]) == pytest.approx(1)
    assert len(pool.requests) == 1 + 4  # a hundred pairs of letters begin with four


async def test_a_long_text_is_run_once_before_the_others(client: Client, pool: FakePool) -> None:
    pool.hold_after = 0
    asked = {**ASKED, "input": "word " * 100, "questions": [CHOICE] * 5}
    task = asyncio.ensure_future(client.post("/v1/decisions", json=asked))
    await pool.wait_for_streams(1)
    await asyncio.sleep(0.1)
    assert len(pool.streams) == 1
    pool.release.set()
    assert (await task).status_code == 200
    assert len(pool.streams) == 5


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"questions": []}, "questions"),
        ({"questions": [PREDICATE] * 201}, "questions"),
        ({"questions": [{**PREDICATE, "name": None}]}, "name must be a string"),
        ({"questions": [{**PREDICATE, "type": "nope"}]}, "questions"),
        ({"questions": [{**PREDICATE, "instructions": 1}]}, "instructions"),
        ({"questions": [{**CHOICE, "choices": [{"value": "a"}]}]}, "choices"),
        ({"questions": [{**CHOICE, "choices": [{"value": "a"}] * 2}]}, "different values"),
        ({"questions": [{**CHOICE, "choices": [{"value": 1}, {"value": 2}]}]}, "choices"),
        ({"questions": [{**CHOICE, "choices": [{"value": str(n)} for n in range(256)]}]}, "255"),
        ({"questions": [{**SCORE, "levels": [{"label": str(n)} for n in range(11)]}]}, "levels"),
        ({"input": {"text": "x"}}, "input"),
        ({"input": [{"role": "assistant", "content": "x"}]}, "user"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "text input only",
        ),
        ({"input": "word " * 3000}, "tokens"),
        ({"joint": True}, "joint"),
        ({"safety_identifier": "x" * 129}, "safety_identifier"),
    ],
)
async def test_bad_decisions(client: Client, fields: dict[str, Any], reason: str) -> None:
    response = await client.post("/v1/decisions", json={**ASKED, **fields})
    assert response.status_code == 400
    assert reason in str((await response.get_json())["error"])


async def test_an_unknown_model(client: Client) -> None:
    response = await client.post("/v1/decisions", json={**ASKED, "model": "nope"})
    assert response.status_code == 404


async def test_long_texts_and_many_questions_are_bounded(
    make_app: MAKE_APP, pool: FakePool
) -> None:
    client = make_app(max_token_ids=100_000).test_client()
    asked = {**ASKED, "questions": [PREDICATE] * 200, "input": "word " * 350}
    response = await client.post("/v1/decisions", json=asked)
    assert response.status_code == 400
    assert "questions" in (await response.get_json())["error"]["message"]
    assert not pool.requests


# The other route

TEAM = {
    "type": "choice",
    "instructions": "Which team?",
    "criteria": {"bills": "money", "ship": None},
}
SYSTEM: dict[str, Any] = {"state": {"ticket": "Charged twice."}, "questions": {"team": TEAM}}


async def test_answers_have_the_systems_shape(client: Client, likely: dict[str, float]) -> None:
    likely |= {"A": 0.6, "B": 0.2, "0": 0.1, "1": 0.3, "y": 0.9, "e": 1, "s": 1, "n": 0.1, "o": 0.5}
    questions = {
        "team": TEAM,
        "urgent": {"type": "noul", "criteria": {"true": "money moves"}},
        "tone": {"type": "score", "instructions": "How upset?", "criteria": ["calm", "angry"]},
    }
    body = await decide(client, "/v1/systemone", questions=questions, request_id="r1")
    assert body["id"] == "decision-r1"
    assert body["object"] == "structured_decision"
    assert body["joint"] is None
    assert body["answers"] == {
        "team": {
            "type": "choice",
            "choice": "bills",
            "probabilities": {"bills": pytest.approx(0.75), "ship": pytest.approx(0.25)},
            "confidence": pytest.approx(0.6),
        },
        "urgent": {
            "type": "noul",
            "noul": pytest.approx(0.9 / 0.95),
            "probabilities": {"yes": pytest.approx(0.9 / 0.95), "no": pytest.approx(0.05 / 0.95)},
            "confidence": pytest.approx(0.9),
        },
        "tone": {
            "type": "score",
            "score": pytest.approx(0.75),
            "legend": {"0": "calm", "1": "angry"},
            "probabilities": {"0": pytest.approx(0.25), "1": pytest.approx(0.75)},
            "confidence": pytest.approx(0.3),
        },
    }
    assert body["diagnostics"] == {
        "team": {"label_mass": pytest.approx(0.8), "argmax_is_label": True},
        "urgent": {"label_mass": pytest.approx(0.95), "argmax_is_label": True},
        "tone": {"label_mass": pytest.approx(0.4), "argmax_is_label": True},
    }
    assert list(body["usage"]) == ["input_tokens", "output_tokens"]


async def test_one_option_has_all_of_the_probability(client: Client) -> None:
    body = await decide(client, "/v1/systemone", questions={"q": {**TEAM, "criteria": {"a": None}}})
    assert body["answers"]["q"]["probabilities"] == {"a": 1.0}
    assert body["answers"]["q"]["confidence"] == pytest.approx(0.25)


async def test_state_and_instructions_are_read(
    client: Client, pool: FakePool, text: ModelTokenizer
) -> None:
    await decide(client, "/v1/systemone", instructions="Be kind.", priority=3)
    request = pool.requests[0]
    prompt = await text.decode(request.prompt_token_ids, skip_special_tokens=False)
    assert '{"ticket": "Charged twice."}\n\nBe kind.\n\nQuestion: Which team?' in prompt
    assert request.priority == 3


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"questions": {}}, "questions"),
        ({"questions": {f"q{n}": TEAM for n in range(65)}}, "questions"),
        ({"questions": {"": TEAM}}, "non-empty"),
        ({"questions": {"q": {**TEAM, "type": "nope"}}}, "unknown question type"),
        ({"questions": {"q": {**TEAM, "criteria": ["x"]}}}, "must map option names"),
        ({"questions": {"q": {**TEAM, "criteria": {}}}}, "must map option names"),
        ({"questions": {"q": {"type": "noul", "criteria": ["yes"]}}}, "must be an object"),
        ({"questions": {"q": {"type": "noul", "criteria": {"maybe": ""}}}}, "must be an object"),
        ({"questions": {"q": {"type": "score", "criteria": ["calm"]}}}, "ordered list of levels"),
        (
            {"questions": {"q": {**TEAM, "criteria": {str(n): None for n in range(27)}}}},
            "at most 26 options",
        ),
        (
            {"questions": {"q": {"type": "score", "criteria": [str(n) for n in range(11)]}}},
            "at most 10",
        ),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "thinking must be off"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"images": ["https://example.com/a.png"]}, "images"),
        ({"joint": True}, "joint"),
    ],
)
async def test_bad_system_requests(client: Client, fields: dict[str, Any], reason: str) -> None:
    response = await client.post("/v1/systemone", json={**SYSTEM, **fields})
    assert response.status_code == 400, await response.get_data()
    assert reason in (await response.get_json())["error"]["message"]


# Labels


def test_probabilities_multiply_along_a_label() -> None:
    tree = LabelTree([(1,), (2, 3), (2, 4, 5)])
    assert tree.nodes == {(): (1, 2), (2,): (3, 4), (2, 4): (5,)}
    logprobs = {
        (): {1: math.log(0.5), 2: math.log(0.4)},
        (2,): {3: math.log(0.25), 4: math.log(0.5)},
        (2, 4): {5: math.log(0.1)},
    }
    assert tree.probabilities(logprobs) == pytest.approx([0.5, 0.1, 0.02])
    assert normalized([0.0, 0.0]) == [0.5, 0.5]


@pytest.mark.parametrize("labels", [[(1,), (1, 2)], [(1, 2), (1,)], [()], [(1,), (1,)]])
def test_labels_must_be_told_apart(labels: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="told apart"):
        LabelTree(labels)


def test_a_question_as_text() -> None:
    question = Question("Which?", [Option("a", "first"), Option("b")], letters(2))
    assert question.text().startswith("Question: Which?\nA: a (first)\nB: b\nReply with the letter")
    assert letters(26)[-1] == "Z"
    assert letters(27)[-1] == "BA"
    assert len({*letters(255)}) == 255
