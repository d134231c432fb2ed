"""Beam search over an engine on a tiny model, against transformers' and against plain searches."""

import asyncio
import itertools
import math
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from headrace.frontend.generation.beam_search import BeamSearch
from headrace.protocol.to_frontend import Output
from headrace.protocol.to_worker import Generate
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.torch_runner.loading import load_model
from headrace.workers.torch_runner.model_runner import ModelRunner
from tests.workers.driving import request
from tests.workers.tiny_models import VOCAB, save_tiny

PROMPT = [5, 9, 11, 3, 5, 9]
ENDS = tuple(range(0, VOCAB, 5))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    folder = tmp_path_factory.mktemp("llama")
    save_tiny(folder, "llama")
    return load_model(folder, "float32", torch.device("cpu"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> LlamaForCausalLM:
    """The same model, as transformers runs it."""
    folder = tmp_path_factory.mktemp("reference")
    save_tiny(folder, "llama")
    model = load_model(folder, "float32", torch.device("cpu"))
    assert isinstance(model, LlamaForCausalLM)
    return model


@pytest.fixture(scope="module")
def runner(model: PreTrainedModel) -> ModelRunner:
    hook = AttentionHook()
    with torch.inference_mode():
        hook.probe(model)
    return ModelRunner(model, hook, max_model_len=128, num_blocks=64, block_size=4)


class EngineStream:
    """A request's outputs; whoever waits steps the engine."""

    def __init__(self, engine: Engine, one: Generate, outputs: dict[str, Any]) -> None:
        self.engine, self.one, self.outputs = engine, one, outputs
        engine.add(one)

    def __aiter__(self) -> "EngineStream":
        return self

    async def __anext__(self) -> Output:
        await asyncio.sleep(0)
        while self.one.request_id not in self.outputs:
            self.outputs.update({output.request_id: output for output in self.engine.step()})
        found: Output = self.outputs.pop(self.one.request_id)
        return found

    def ready(self) -> None:
        """Nothing has ever come before it is waited for."""

    def cancel(self) -> None:
        self.engine.abort(self.one.request_id)


def search(
    runner: ModelRunner,
    width: int,
    length_penalty: float = 1.0,
    prompt: list[int] = PROMPT,
    **sampling: Any,
) -> list[Output]:
    """The texts found, the best first, as outputs."""
    engine = assemble_engine(runner, max_num_seqs=16, max_num_batched_tokens=64)
    outputs: dict[str, Output] = {}
    names = map(str, itertools.count())

    async def found() -> list[Output]:
        beams = BeamSearch(
            request("b", prompt, **sampling),
            width,
            length_penalty,
            lambda one: EngineStream(engine, one, outputs),
            lambda: next(names),
        )
        return [await anext(stream) for stream in beams.streams()]

    texts = asyncio.run(found())
    assert not engine.has_work
    return texts


@torch.inference_mode()
def next_logprobs(reference: LlamaForCausalLM, token_ids: list[int]) -> torch.Tensor:
    return torch.log_softmax(reference(torch.tensor([token_ids])).logits[0, -1], dim=-1)


def plain_search(
    reference: LlamaForCausalLM,
    width: int,
    length_penalty: float,
    max_tokens: int,
    ends: tuple[int, ...] = (),
) -> list[tuple[list[int], float, bool]]:
    """Beam search by its definition, each text run whole at each step: (tokens, total, ended)."""
    beams: list[tuple[list[int], float]] = [([], 0.0)]
    kept: list[tuple[list[int], float, bool]] = []
    for _ in range(max_tokens):
        grown = []
        for tokens, total in beams:
            values, ids = next_logprobs(reference, [*PROMPT, *tokens]).topk(2 * width)
            grown += [
                ([*tokens, i], total + v)
                for v, i in zip(values.tolist(), ids.tolist(), strict=True)
            ]
        kept += [(tokens, total, True) for tokens, total in grown if tokens[-1] in ends]
        alive = [beam for beam in grown if beam[0][-1] not in ends]
        beams = sorted(alive, key=lambda beam: -beam[1])[:width]
    kept += [(tokens, total, False) for tokens, total in beams]

    def score(beam: tuple[list[int], float, bool]) -> float:
        tokens, total, ended = beam
        found: float = total / (len(PROMPT) + len(tokens) - ended) ** length_penalty
        return found

    return sorted(kept, key=score, reverse=True)[:width]


@pytest.mark.parametrize("width", [1, 2, 5])
def test_without_ends_the_texts_are_those_of_transformers(
    runner: ModelRunner, reference: LlamaForCausalLM, width: int
) -> None:
    texts = search(runner, width, max_tokens=10)
    with torch.inference_mode():
        expected = reference.generate(
            torch.tensor([PROMPT]),
            num_beams=width,
            num_return_sequences=width,
            max_new_tokens=10,
            do_sample=False,
            pad_token_id=0,
        )
    assert [list(text.token_ids) for text in texts] == expected[:, len(PROMPT) :].tolist()
    assert {text.finish_reason for text in texts} == {"length"}


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 3.0])
@pytest.mark.parametrize("width", [1, 3, 4])
def test_with_ends_the_texts_are_those_of_the_definition(
    runner: ModelRunner, reference: LlamaForCausalLM, width: int, length_penalty: float
) -> None:
    texts = search(runner, width, length_penalty, max_tokens=12, eos_token_ids=ENDS, logprobs=2)
    expected = plain_search(reference, width, length_penalty, 12, ENDS)
    assert [list(text.token_ids) for text in texts] == [tokens for tokens, _, _ in expected]
    for text, (tokens, total, ended) in zip(texts, expected, strict=True):
        assert (text.finish_reason == "stop") == ended
        assert text.stop_token_id == (tokens[-1] if ended else None)
        assert text.logprobs is not None
        assert sum(at.logprob for at in text.logprobs) == pytest.approx(total, abs=1e-3)
        assert [at.token_id for at in text.logprobs] == tokens
        assert all(len(at.top_token_ids) == 2 for at in text.logprobs)
    # Longer texts are preferred so much by the last penalty that none of those found has ended.
    assert any(text.finish_reason == "stop" for text in texts) == (length_penalty < 3)


def test_the_best_text_of_all_is_found_by_a_wide_search(
    runner: ModelRunner, reference: LlamaForCausalLM
) -> None:
    """With as many beams as there are texts, nothing is left out."""
    first = next_logprobs(reference, PROMPT)
    best = -math.inf
    for token in first.topk(16).indices.tolist():
        second = next_logprobs(reference, [*PROMPT, token])
        best = max(best, float(first[token] + second.max()))
    texts = search(runner, 16, max_tokens=2, logprobs=0)
    logprobs = texts[0].logprobs
    assert logprobs is not None
    assert sum(at.logprob for at in logprobs) == pytest.approx(best, abs=1e-4)


def test_prompt_log_probabilities_come_with_the_texts(runner: ModelRunner) -> None:
    text = search(runner, 2, max_tokens=3, prompt_logprobs=1)[0]
    assert text.admission is not None
    known = text.admission.prompt_logprobs
    assert known is not None
    assert [at.token_id for at in known] == PROMPT[1:]
