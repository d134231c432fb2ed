"""Rendering against transformers' own, token by token."""

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from headrace.frontend.chat.templates import ChatTemplate
from headrace.frontend.errors import BadRequest
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from tests.frontend.text.tokenizers_for_tests import CHAT_TEMPLATE, SPECIAL

BOS_AND_ALTERNATION = """{{ bos_token }}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate') }}
    {% endif %}
    {% if message['role'] == 'user' %}
        {{ '[INST] ' + message['content'] | trim + ' [/INST]' }}
    {%- else %}
        {% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}
    {% endif %}
{% endfor %}"""
NAMESPACE_AND_LOOPCONTROLS = """
{%- set ns = namespace(system='none') -%}
{%- for message in messages -%}
  {%- if message.role == 'system' -%}{%- set ns.system = message.content -%}{%- continue -%}
  {%- endif -%}
  <|{{ message.role }}|>{{ message.content | tojson }}
{% if loop.index > 5 %}{% break %}{% endif %}
{%- endfor -%}
system={{ ns.system }}
{%- if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""
TOOLS_AND_DATES = """{% if tools is not none %}tools{% endif %}{{ strftime_now('%Y') }}
{% for message in messages %}
{{ message.role }}: {{ message.content }}
{% endfor %}"""

TEMPLATES = [CHAT_TEMPLATE, BOS_AND_ALTERNATION, NAMESPACE_AND_LOOPCONTROLS, TOOLS_AND_DATES]
CHATS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [
        {"role": "user", "content": "  <b>\"Hé\" & 'ho'</b>\n\n"},
        {"role": "assistant", "content": "你好 👍🏽 "},
        {"role": "user", "content": "again"},
    ],
]


@pytest.fixture(scope="module")
def reference(text_path: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(text_path / "tokenizer.json"),
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        unk_token=SPECIAL[0],
    )


def ours(source: str) -> ChatTemplate:
    tokens = {"bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "unk_token": SPECIAL[0]}
    return ChatTemplate(source, tokens)


@pytest.mark.parametrize("source", TEMPLATES)
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("generation_prompt", [True, False])
async def test_token_ids_equal_those_of_transformers(
    source: str,
    chat: list[Any],
    generation_prompt: bool,
    reference: PreTrainedTokenizerFast,
    text: ModelTokenizer,
) -> None:
    variables: dict[str, Any] = {"enable_thinking": False}
    rendered = ours(source).render(
        chat, add_generation_prompt=generation_prompt, variables=variables
    )
    expected = reference.apply_chat_template(
        chat,
        chat_template=source,
        add_generation_prompt=generation_prompt,
        return_dict=False,
        **variables,
    )
    assert await text.encode(rendered, add_special_tokens=False) == expected


@pytest.mark.parametrize("source", TEMPLATES[:2])
@pytest.mark.parametrize("beginning", ["The capital", "The capital is  ", "\n"])
def test_continued_messages_equal_those_of_transformers(
    source: str, beginning: str, reference: PreTrainedTokenizerFast
) -> None:
    chat = [*CHATS[0], {"role": "assistant", "content": beginning}]
    rendered = ours(source).render(chat, add_generation_prompt=False, continue_final_message=True)
    expected = reference.apply_chat_template(
        chat, chat_template=source, continue_final_message=True, tokenize=False
    )
    assert rendered == expected


def test_what_the_template_raises_is_told() -> None:
    with pytest.raises(BadRequest, match="Roles must alternate"):
        ours(BOS_AND_ALTERNATION).render(CHATS[0] * 2, add_generation_prompt=True)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.x }}",
        "{{ messages.append(1) }}",
        "{{ messages[0]['content'] + 1 }}",
        "{{ nothing.at.all }}",
        "{{ raise_exception.__globals__.x }}",
    ],
)
def test_what_a_template_must_not_do_is_a_bad_request(source: str) -> None:
    with pytest.raises(BadRequest):
        ours(source).render(CHATS[0], add_generation_prompt=True)


def test_a_template_that_is_none_is_refused_when_made() -> None:
    with pytest.raises(ValueError, match="line 1"):
        ours("{% for %}")
