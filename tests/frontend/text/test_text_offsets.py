"""The offsets in log probabilities index the text of the choice, whatever the text is."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from quart.typing import TestClientProtocol as Client

from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.frontend.text.offsets import output_offsets, prompt_offsets
from headrace.protocol.text import TextInfo
from tests.frontend.fake_pool import FakePool
from tests.frontend.text.tokenizers_for_tests import EOS, byte_fallback

TEXTS = st.text(st.sampled_from("The capital Paris éü你好👍🏽\ue000"), min_size=1, max_size=25)
ON_A_CLIENT = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def whole(text: ModelTokenizer, token_id: int) -> str | None:
    try:
        return text.token_bytes(token_id).decode()
    except UnicodeDecodeError:
        return None


def check(text: ModelTokenizer, token_ids: list[int], offsets: list[int], shown: str) -> None:
    assert len(offsets) == len(token_ids)
    assert offsets == sorted(offsets)
    for token_id, offset in zip(token_ids, offsets, strict=True):
        own = whole(text, token_id)
        if own is not None and not text.is_special(token_id):
            assert shown[offset : offset + len(own)] == own, (offset, own)


async def answer(client: Client, **fields: Any) -> tuple[str, list[int]]:
    response = await client.post("/v1/completions", json=fields)
    body = await response.get_data(as_text=True)
    assert response.status_code == 200, body
    if not fields.get("stream"):
        choice = json.loads(body)["choices"][0]
        return choice["text"], choice["logprobs"]["text_offset"]
    events = [json.loads(line[6:]) for line in body.split("\n\n")[:-2]]
    choices = [event["choices"][0] for event in events]
    offsets = [offset for choice in choices for offset in choice["logprobs"]["text_offset"]]
    return "".join(choice["text"] for choice in choices), offsets


@ON_A_CLIENT
@given(TEXTS, TEXTS, st.booleans(), st.booleans(), st.booleans(), st.booleans())
async def test_of_text_prompts(
    client: Client,
    pool: FakePool,
    text: ModelTokenizer,
    prompt: str,
    output: str,
    echo: bool,
    stream: bool,
    as_ids: bool,
    skip: bool,
) -> None:
    answered = text.backend.encode(output).ids
    pool.reply = lambda request: [*answered, EOS]
    shown, offsets = await answer(
        client,
        prompt=prompt,
        logprobs=0,
        max_tokens=200,
        echo=echo,
        stream=stream,
        return_tokens_as_token_ids=as_ids,
        skip_special_tokens=skip,
    )
    assert shown == (prompt if echo else "") + output
    prompt_ids = text.backend.encode(prompt).ids if echo else []
    check(text, [*prompt_ids, *answered, EOS], offsets, shown)


@ON_A_CLIENT
@example([129, 0], [])  # half a character, then a special token
@given(st.lists(st.integers(0, 599), min_size=1, max_size=12), st.lists(st.integers(3, 599)))
async def test_of_any_ids(
    client: Client, pool: FakePool, text: ModelTokenizer, prompt: list[int], output: list[int]
) -> None:
    """Halves of characters and special tokens anywhere."""
    pool.reply = lambda request: [*output, EOS]
    size = text.backend.get_vocab_size()
    prompt = [token_id % size for token_id in prompt]
    output = [3 + token_id % (size - 3) for token_id in output]
    fields = {"prompt": prompt, "logprobs": 0, "max_tokens": 200}
    shown, offsets = await answer(client, **fields)
    check(text, [*output, EOS], offsets, shown)
    assert (shown, offsets) == await answer(client, **fields, stream=True)
    shown, offsets = await answer(client, **fields, echo=True)
    assert (shown, offsets) == await answer(client, **fields, echo=True, stream=True)
    assert offsets == sorted(offsets)
    check(text, [*output, EOS], offsets[len(prompt) :], shown)
    for token_id, offset in zip(prompt, offsets, strict=False):
        if text.is_special(token_id):  # it is a part of the echoed text, as it would be of a text
            assert shown[offset:].startswith(text.token_bytes(token_id).decode()), offset


async def test_ids_and_their_text_are_echoed_alike(client: Client, text: ModelTokenizer) -> None:
    written = "<|im_start|>system\nHello<|im_end|>\n"
    ids = text.backend.encode(written, add_special_tokens=False).ids
    assert {1, 2} <= set(ids)
    fields = {"echo": True, "logprobs": 0, "max_tokens": 3}
    expected = await answer(client, prompt=written, **fields)
    assert expected[0].startswith(written)
    for stream in (False, True):
        assert await answer(client, prompt=ids, stream=stream, **fields) == expected
    response = await client.post("/v1/completions", json={"prompt": ids, "echo": True})
    assert (await response.get_json())["choices"][0]["text"].startswith(written)


@pytest.mark.parametrize("side", ["left", "right"])
async def test_of_a_cut_prompt(client: Client, text: ModelTokenizer, side: str) -> None:
    prompt = "é The 你好 capital"
    ids = text.backend.encode(prompt).ids
    kept = ids[-2:] if side == "left" else ids[:2]
    fields = {"prompt": prompt, "echo": True, "logprobs": 0, "max_tokens": 1}
    shown, offsets = await answer(client, **fields, truncate_prompt_tokens=2, truncation_side=side)
    assert shown.startswith(prompt)
    check(text, kept, offsets[:2], prompt)


@given(st.lists(st.sampled_from(["the", " the", "好", "你", "é", " a", "b"]), min_size=1))
def test_of_a_sentencepiece(words: list[str]) -> None:
    text = ModelTokenizer(TextInfo(max_model_len=100, vocab_size=400), byte_fallback())
    written = "".join(words)
    ids = text.backend.encode(written, add_special_tokens=False).ids
    offsets = prompt_offsets(text, [1, *ids], written)
    assert offsets[0] == 0
    check(text, ids[1:], offsets[2:], written)
    follower = output_offsets(text, True, [1], 7)
    check(text, ids, [follower.next(id_) - 7 for id_ in ids], " " + written)
