"""Decisions on a real model, by the real client, held against transformers' log probabilities."""

import math
from typing import Any

import pytest
import torch
from openai import BadRequestError, OpenAI
from transformers import AutoTokenizer

from headrace.frontend.decisions.openai_shape import as_question
from headrace.frontend.schemas.decisions import ChoiceOfValues
from headrace.launcher.models.prepare_model import PreparedModel
from tests.end_to_end.models.reference_model import load_reference
from tests.end_to_end.servers import Server

TEXT = "The package arrived with a broken screen."
CHOICE: Any = {
    "type": "choice",
    "name": "department",
    "instructions": "Which department should handle this?",
    "choices": [{"value": "returns"}, {"value": "billing"}, {"value": "sales"}],
}
PREDICATE: Any = {"type": "predicate", "instructions": "Is the screen broken?"}


@pytest.fixture
def server(smol_pool: Server) -> Server:
    return smol_pool


def test_probabilities_are_those_of_transformers(server: Server, prepared: PreparedModel) -> None:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        found = client.decisions.create(model="smol", input=TEXT, questions=[CHOICE, PREDICATE])
        again = client.decisions.create(model="smol", input=TEXT, questions=[CHOICE, PREDICATE])
        image: Any = {"type": "input_image", "image_url": "https://example.com/a.png"}
        with pytest.raises(BadRequestError, match="text input only"):
            client.decisions.create(
                model="smol",
                input=[{"role": "user", "content": [image]}],
                questions=[PREDICATE],
            )
    assert found.answers == again.answers
    answer, predicate = found.answers
    assert answer.type == "choice"
    assert predicate.type == "predicate"
    assert 0 < predicate.probability < 1
    assert found.usage.output_tokens == 2  # each label is a token of this model
    expected = transformers_probabilities(prepared, ["A", "B", "C"])
    total = sum(expected)
    given = [each.probability for each in answer.probabilities]
    assert given == pytest.approx([each / total for each in expected], rel=1e-3)
    assert answer.confidence == pytest.approx(max(expected), rel=1e-3)


def transformers_probabilities(prepared: PreparedModel, labels: list[str]) -> list[float]:
    """The probabilities of tokens after the prompt of the choice."""
    tokenizer = AutoTokenizer.from_pretrained(prepared.model_path)
    question = as_question(ChoiceOfValues.model_validate(CHOICE)).text()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": f"{TEXT}\n\n{question}"}],
        add_generation_prompt=True,
        return_dict=False,
    )
    with torch.inference_mode():
        logits = load_reference()(torch.tensor([prompt])).logits[0, -1]
    logprobs = torch.log_softmax(logits, dim=-1)
    ids = [tokenizer.encode(label, add_special_tokens=False) for label in labels]
    assert all(len(each) == 1 for each in ids)
    return [math.exp(logprobs[each[0]].item()) for each in ids]


def test_a_state_is_found_in_the_cache(server: Server) -> None:
    state = {"log": [f"line {n}: the disk is full" for n in range(60)]}
    question = {"type": "noul", "instructions": "Is anything wrong?"}
    questions = {f"q{n}": question for n in range(3)}
    body = {"model": "smol", "state": state, "questions": questions}
    answer = server.client.post("/v1/systemone", json=body)
    assert answer.status_code == 200, answer.text
    answers = answer.json()["answers"]
    assert answers["q0"]["noul"] == pytest.approx(answers["q2"]["noul"], rel=1e-3)
    asked = {
        "model": "smol",
        "input": "word " * 400,
        "questions": [{**PREDICATE, "instructions": f"Is it {n}?"} for n in range(4)],
    }
    usage = server.client.post("/v1/decisions", json=asked).raise_for_status().json()["usage"]
    cached = usage["input_tokens_details"]["cached_tokens"]
    # Of three of the four; or of two, if the other worker takes one of them.
    assert cached > 0.4 * usage["input_tokens"]
