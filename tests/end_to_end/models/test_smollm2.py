"""The whole of it on a real model: SmolLM2-135M-Instruct in float32, two frontends, two workers."""

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import torch
from anthropic import Anthropic, NotFoundError
from anthropic.types import TextBlock
from openai import AsyncOpenAI, OpenAI
from openai.types.chat.chat_completion import Choice
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from headrace.launcher.models.prepare_model import PreparedModel, PrepareOptions, prepare_model
from tests.contract import replay
from tests.end_to_end.models.reference_model import find_default_file, load_reference
from tests.end_to_end.servers import Server
from tests.frontend.text.tokenizers_for_tests import byte_level as byte_level_tokenizer
from tests.workers.tiny_models import save_model

STREAMS = 32
OUTPUT_TOKENS = 20
# Two logits closer than this may be ordered differently by two correct engines in float32.
TIE = 1e-3

TOPICS = ["Paris", "the moon", "bread", "a river in the mountains", "prime numbers", "Bach", "tea"]


def question(number: int) -> str:
    """Prompts of many lengths; several share a beginning."""
    topic = TOPICS[number % len(TOPICS)]
    return f"Tell me about {topic}. " * (1 + number % 5) + f"Answer number {number}, please."


@dataclass(frozen=True)
class Reference:
    """transformers itself, on the same weights."""

    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase

    def prompt(self, text: str) -> list[int]:
        messages = [{"role": "user", "content": text}]
        ids = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        return list(ids)

    def is_greedy(self, prompt: list[int], output: list[int]) -> bool:
        """Whether each token is the likeliest after those before it: what generating would give,
        for the price of one forward."""
        with torch.inference_mode():
            wanted = len(output) + 1
            logits = self.model(torch.tensor([prompt + output]), logits_to_keep=wanted).logits[0]
        rows = logits[:-1]
        chosen = rows.gather(1, torch.tensor(output)[:, None])[:, 0]
        return bool((rows.amax(dim=1) - chosen <= TIE).all())


@pytest.fixture
def server(smol_pool: Server) -> Server:
    return smol_pool


@pytest.fixture(scope="module")
def reference(prepared: PreparedModel) -> Reference:
    torch.set_num_threads(1)
    return Reference(load_reference(), AutoTokenizer.from_pretrained(prepared.model_path))


async def test_concurrent_streams_are_transformers_greedy_text(
    server: Server, reference: Reference
) -> None:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

        async def stream(number: int) -> tuple[str, list[int], int, int]:
            text, usage = "", None
            ids: list[int] = []
            async for chunk in await client.chat.completions.create(
                model="smol",
                messages=[{"role": "user", "content": question(number)}],
                temperature=0,
                max_tokens=OUTPUT_TOKENS,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"return_token_ids": True},
            ):
                usage = chunk.usage or usage
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    ids += (choice.model_extra or {}).get("token_ids") or []
            assert usage is not None
            return text, ids, usage.prompt_tokens, usage.completion_tokens

        answers = await asyncio.gather(*(stream(number) for number in range(STREAMS)))
    for number, (text, ids, prompt_tokens, completion_tokens) in enumerate(answers):
        prompt = reference.prompt(question(number))
        assert prompt_tokens == len(prompt)
        assert completion_tokens == len(ids)
        assert len(ids) == OUTPUT_TOKENS or ids[-1] == reference.tokenizer.eos_token_id
        assert text == reference.tokenizer.decode(ids, skip_special_tokens=True)
        assert reference.is_greedy(prompt, ids), f"request {number}: {text!r}"
    for engine in ("0", "1"):
        assert server.metric("headrace:iteration_tokens_total_count", engine=engine) > 0


def test_wrong_text_would_be_noticed(reference: Reference) -> None:
    prompt = reference.prompt("What is the capital of France?")
    right = reference.tokenizer.encode("The capital of France is Paris.")
    assert reference.is_greedy(prompt, right)
    assert not reference.is_greedy(prompt, [*right[:3], right[3] + 1, *right[4:]])


def test_sampling_with_a_seed_is_the_same_on_any_worker_and_in_any_batch(server: Server) -> None:
    def ask(seed: int) -> str:
        sampling = {"max_tokens": 64, "temperature": 1, "seed": seed}
        body = {"model": "smol", "prompt": "Once upon a time", **sampling}
        answer = server.client.post("/v1/completions", json=body).raise_for_status()
        text: str = answer.json()["choices"][0]["text"]
        return text

    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(ask, [7, 7, 7, 7, 7, 7, 8, 9]))
    texts = {*together[:6], ask(7), ask(7)}
    assert len(texts) == 1
    assert not texts & {*together[6:]}


def test_the_default_model_is_sampled_as_its_authors_say(
    prepared: PreparedModel, tmp_path: Path
) -> None:
    authors = {"temperature": 0.2, "top_p": 0.9}
    assert prepared.info.generation_defaults == authors
    by_path = PrepareOptions(tmp_path, override_generation_config={"top_p": 0.5})
    named = prepare_model(str(find_default_file()), by_path)
    assert named.info.generation_defaults == {"temperature": 0.2, "top_p": 0.5}


def test_what_excludes_each_other_is_the_requests_fault(server: Server) -> None:
    """No token can follow there: that is known only when the worker looks for one."""
    words = {"model": "smol", "prompt": "a b", "add_special_tokens": False}
    allowed = server.client.post("/tokenize", json=words).json()["tokens"]
    for fields in ({}, {"stream": True}, {"n": 2, "temperature": 1}):
        body = {
            "model": "smol",
            "messages": [{"role": "user", "content": "Hello"}],
            "structured_outputs": {"regex": "[0-9]+"},
            "allowed_token_ids": allowed,
            **fields,
        }
        answer = server.client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400, answer.text
        assert "excludes each other" in answer.json()["error"]["message"]


def test_second_turn_finds_the_first_in_the_cache(server: Server) -> None:
    messages = [{"role": "user", "content": "Count to one hundred in words, please. " * 40}]
    body = {"model": "smol", "messages": messages, "max_tokens": 4, "temperature": 0}

    def ask() -> dict[str, dict[str, dict[str, int]]]:
        answer = server.client.post("/v1/chat/completions", json=body)
        usage: dict[str, dict[str, dict[str, int]]] = answer.raise_for_status().json()
        return usage

    ask()
    details = ask()["usage"]["prompt_tokens_details"]
    assert details["cached_tokens"] > 300


def test_anthropics_client_gets_the_same_streamed_whole_and_from_chats(server: Server) -> None:
    words = "Name three colours of the sky, and say when it has them. "
    request: dict[str, Any] = {
        "model": "smol",
        "max_tokens": 64,
        "system": [{"type": "text", "text": "You answer in one sentence."}],
        "messages": [{"role": "user", "content": words * 8}],
        "extra_body": {"temperature": 0},
    }
    with Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        whole = client.messages.create(**request)
        with client.messages.stream(**request) as stream:
            text = "".join(stream.text_stream)
            streamed = stream.get_final_message()
        counted = client.messages.count_tokens(
            model="smol", system=request["system"], messages=request["messages"]
        )
        with pytest.raises(NotFoundError):
            client.messages.create(**{**request, "model": "nope"})
    for message in (whole, streamed):
        assert [block.type for block in message.content] == ["text"]
        (block,) = message.content
        assert isinstance(block, TextBlock)
        assert block.text == text
        assert message.stop_reason == "end_turn"
        usage = message.usage
        cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
        assert usage.input_tokens + cached == counted.input_tokens
    assert streamed.usage.output_tokens == whole.usage.output_tokens > 0
    with OpenAI(base_url=f"{server.url}/v1", api_key="none") as openai:
        chat = openai.chat.completions.create(
            model="smol",
            messages=[
                {"role": "system", "content": "You answer in one sentence."},
                {"role": "user", "content": words * 8},
            ],
            max_tokens=64,
            temperature=0,
        )
    assert chat.choices[0].message.content == text
    assert chat.usage is not None
    assert chat.usage.prompt_tokens == counted.input_tokens


def test_fields_about_tokens_change_the_text_as_they_say(server: Server) -> None:
    def ids(text: str) -> list[int]:
        asked = {"prompt": text, "add_special_tokens": False}
        found: list[int] = server.client.post("/tokenize", json=asked).json()["tokens"]
        return found

    with OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:

        def ask(**fields: Any) -> Choice:
            answer = client.chat.completions.create(
                model="smol",
                messages=[{"role": "user", "content": "What is the capital of France?"}],
                temperature=0,
                max_tokens=12,
                extra_body=fields,
            )
            return answer.choices[0]

        (paris,) = ids(" Paris")
        assert "Paris" in (ask().message.content or "")
        assert "Paris" not in (ask(logit_bias={str(paris): -100}).message.content or "")
        assert "capital of France" not in (ask(bad_words=["of France"]).message.content or "")
        assert set((ask(allowed_token_ids=ids(" yes no")).message.content or "").split()) <= {
            "yes",
            "no",
        }
        named = ask(logprobs=True, logprob_token_ids=[paris]).logprobs
        assert named is not None
        for at in named.content or []:  # the token itself first, and none twice
            shown = [top.token for top in at.top_logprobs]
            assert shown == list(dict.fromkeys([at.token, " Paris"]))
        ended = ask(
            logit_bias={str(ids(" ha")[0]): 100},
            repetition_detection={"max_pattern_size": 2, "min_count": 3},
        )
        assert ended.message.content == " ha ha ha"
        assert str(ended.finish_reason) == "repetition"


def test_beam_search_finds_likelier_texts_than_greedy(server: Server) -> None:
    fields: dict[str, Any] = {
        "model": "smol",
        "prompt": "Once upon a time",
        "max_tokens": 12,
        "logprobs": 0,
    }
    with OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        greedy = client.completions.create(**fields, temperature=0).choices[0]
        beams = client.completions.create(
            **fields, n=3, extra_body={"use_beam_search": True, "ignore_eos": True}
        )
    totals = [sum(choice.logprobs.token_logprobs) for choice in beams.choices]
    assert totals == sorted(totals, reverse=True)
    assert len({choice.text for choice in beams.choices}) == 3
    assert totals[0] >= sum(greedy.logprobs.token_logprobs) - TIE


@pytest.mark.parametrize("name", replay.names())
async def test_contract(name: str, server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

        async def call(
            method: str, path: str, headers: dict[str, str], body: bytes | None
        ) -> replay.Answer:
            answer = await client.request(method, path, headers=headers, content=body)
            return replay.Answer(answer.status_code, dict(answer.headers), answer.text)

        await replay.replay(name, call)


def test_unsupported_model_ends_the_start_with_one_line(tmp_path: Path) -> None:
    options = {"attention_hidden_size": 32, "num_hidden_layers": 2}
    save_model(tmp_path / "rwkv", "RwkvConfig", "RwkvForCausalLM", options)
    byte_level_tokenizer().save(str(tmp_path / "rwkv" / "tokenizer.json"))
    with pytest.raises(AssertionError, match="did not come up") as caught:
        Server(["--model", str(tmp_path / "rwkv"), "--workers", "1", "--frontends", "1"])
    assert "Traceback" not in str(caught.value)
    assert "RwkvForCausalLM keeps its recurrent state outside" in str(caught.value)


CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "inhabitants": {"type": "integer", "minimum": 1},
        "river": {"enum": ["Seine", "Thames"]},
    },
    "required": ["city", "inhabitants", "river"],
    "additionalProperties": False,
}


async def test_answers_keep_to_the_form_that_is_asked_for(server: Server) -> None:
    """Streamed and not, greedy and drawn, among answers that are free."""
    schema = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    forms: list[dict[str, Any]] = [
        {"response_format": schema},
        {"response_format": schema, "temperature": 1.0, "seed": 1, "n": 3},
        {"response_format": schema, "logprobs": True, "top_logprobs": 2},
        {"extra_body": {"structured_outputs": {"choice": ["Paris", "London"]}}},
        {"extra_body": {"structured_outputs": {"regex": r"^[A-Z][a-z]{2,8}, \d{4}$"}}},
        {"extra_body": {"structured_outputs": {"grammar": 'start: "It is " ("Paris" | "Rome")'}}},
        {},
    ]
    patterns = {3: "Paris|London", 4: r"[A-Z][a-z]{2,8}, \d{4}", 5: "It is (Paris|Rome)"}
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

        async def ask(form: dict[str, Any]) -> list[tuple[str, str]]:
            answer = await client.chat.completions.create(**_question(form))
            return [(c.message.content or "", c.finish_reason) for c in answer.choices]

        async def stream(form: dict[str, Any]) -> list[tuple[str, str]]:
            texts, reasons = [""] * form.get("n", 1), [""] * form.get("n", 1)
            async for chunk in await client.chat.completions.create(**_question(form), stream=True):
                for choice in chunk.choices:
                    texts[choice.index] += choice.delta.content or ""
                    reasons[choice.index] = choice.finish_reason or reasons[choice.index]
            return list(zip(texts, reasons, strict=True))

        whole, streamed = await asyncio.gather(
            asyncio.gather(*map(ask, forms)), asyncio.gather(*map(stream, forms))
        )
    assert streamed == whole
    for answers in whole[:3]:
        for text, reason in answers:
            assert reason == "stop", text
            jsonschema.validate(json.loads(text), CITY)
    for index, pattern in patterns.items():
        ((text, reason),) = whole[index]
        assert re.fullmatch(pattern, text), text
        assert reason == "stop"


def _question(form: dict[str, Any]) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Tell me about the capital of France."}]
    return {"model": "smol", "messages": messages, "temperature": 0, "max_tokens": 100, **form}
