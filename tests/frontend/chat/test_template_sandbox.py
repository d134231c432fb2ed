"""Limits of chat templates: what would run or grow without end is stopped, all else is as before.

The inputs are small: the limits are lowered instead.
"""

import asyncio
import time
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.chat import render, template_sandbox
from headrace.frontend.chat.check_templates import failure
from headrace.frontend.chat.template_sandbox import TemplateTimeout, time_limit
from headrace.frontend.chat.templates import ChatTemplate
from headrace.frontend.errors import BadRequest
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from tests.frontend.asking import ask
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool

LOOPS = "{% for i in range(200) %}" * 3 + "{% endfor %}" * 3
RECURSES = (
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(25) }}"
)
DOUBLES = (
    "{% set ns = namespace(x='aa') %}{% for i in range(12) %}{% set ns.x = CODE %}{% endfor %}"
    "{{ ns.x|length }}"
)
LONG = "{% for i in range(3000) %}{{ 'abc' }}{% endfor %}"


def rendered(source: str, content: str = "hi") -> str:
    template = ChatTemplate(source, {})
    return template.render([{"role": "user", "content": content}], add_generation_prompt=True)


@pytest.mark.parametrize("source", [LOOPS, RECURSES], ids=["loops", "macros"])
def test_a_template_that_runs_for_long_is_stopped(source: str) -> None:
    begun = time.monotonic()
    with time_limit(0.05), pytest.raises(TemplateTimeout):
        rendered(source)
    assert time.monotonic() - begun < 3.0


def test_all_renderings_share_a_limit() -> None:
    with time_limit(0.0), pytest.raises(TemplateTimeout):
        rendered("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert rendered("{{ messages[0].content }}") == "hi"


@pytest.mark.parametrize(
    "source",
    [
        *(
            DOUBLES.replace("CODE", code)
            for code in (
                "ns.x + ns.x",
                "ns.x ~ ns.x",
                "ns.x * 2",
                "2 * ns.x",
                "ns.x.replace('a', ns.x)",
                "ns.x|replace('a', ns.x)",
                "ns.x.join(['a', ns.x])",
                "[ns.x, ns.x]|join",
                "'%s%s' % (ns.x, ns.x)",
                "'%s%s'|format(ns.x, ns.x)",
                "'{}{}'.format(ns.x, ns.x)",
                "[ns.x, ns.x]",
                "(ns.x, ns.x)",
                "{'a': ns.x, 'b': ns.x}",
                "dict(a=ns.x, b=ns.x)",
                "[ns.x] + [ns.x]",
                "[ns.x] * 2",
                "ns.x.translate({97: ns.x})",
            )
        ),
        "{% macro f() %}" + LONG + "{% endmacro %}{{ f()|length }}",
        "{% set x %}" + LONG + "{% endset %}{{ x|length }}",
        LONG,
        "{{ 'a\nb'|indent(9000) }}",
        "{{ '\t\t'.expandtabs(9000) }}",
        "{{ 'a'.center(9000) }}",
        "{{ 'a'|center(9000) }}",
        "{{ 'a'.ljust(200000) }}",
        "{{ 'a'|center(width=200000) }}",
        "{{ [1]|tojson(indent=200) }}",
        "{{ '%9999d' % 1 }}",
        "{{ '%*d' % (9999, 1) }}",
        "{{ '{:9999}'.format(1) }}",
        "{{ 2 ** 5000 }}",
        "{% set n = 2 ** 4000 %}{{ n * n }}",
        "{{ lipsum(1) }}",
    ],
)
def test_values_that_grow_are_stopped(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "MAX_CHARS", 5000)
    with pytest.raises(BadRequest, match="chat template"):
        rendered(source)


def test_all_values_together_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "MAX_TOTAL_CHARS", 100_000)
    source = "{% for i in range(30) %}{% set x = messages[0].content + 'a' %}{% endfor %}"
    assert rendered(source, "b" * 100) == ""
    with pytest.raises(BadRequest):
        rendered(source, "b" * 10_000)


def test_what_templates_do_is_computed_as_before() -> None:
    source = (
        "{{ 7 % 2 == 1 }} {{ 3 * 4 }} {{ 2 ** 10 }} {{ '-' * 3 }} {{ 'a' + 'b' ~ 1 ~ none }} "
        "{{ '%s: %5.1f' % ('x', 2) }} {{ '{:>4}|{}'.format('a', 'b') }} {{ [1] + [2] }} "
        "{{ ['a', 'b']|join(', ') }} {{ 'a-b'|replace('-', '+') }} {{ 'x\ny'|indent(2) }} "
        "{{ {'k': [1, 'é']}|tojson }} {{ (1, 2)[1] }} {{ messages|map(attribute='role')|list }} "
        "{% set a, b = 1, 2 %}{{ a + b }} {% for k, v in {'q': 1}.items() %}{{ k }}{{ v }}"
        "{% endfor %} {{ 'ab'.replace('a', 'c') }} {{ ' z '.strip() }} {{ 1.5 + 1 }}"
    )
    assert rendered(source) == (
        "True 12 1024 --- ab1None x:   2.0    a|b [1, 2] a, b a+b x\n  y "
        """{"k": [1, "é"]} 2 ['user'] 3 q1 cb z 2.5"""
    )


@pytest.mark.parametrize(
    "source",
    [
        "{% for %}",
        "{{ x|no_such_filter }}",
        "{{ x is no_such_test }}",
        "{% no_such_tag %}",
        "{{ '" + "a",
        "{% for a in b %}" * 30 + "{% endfor %}" * 30,
        "{% if a %}" * 120 + "{% endif %}" * 120,
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{% macro a(b, b) %}{% endmacro %}",
        "{% block a %}{% endblock %}{% block a %}{% endblock %}",
        "{% break %}",
    ],
    ids=lambda source: source[:30],
)
def test_whatever_does_not_compile_is_a_value_error(source: str) -> None:
    with pytest.raises(ValueError, match="chat template"):
        ChatTemplate(source, {})
    reason = failure(source, {})
    assert reason is not None
    assert "\n" not in reason


def test_a_template_that_does_not_end_fails_the_check() -> None:
    reason = failure(LOOPS, {}, deadline_s=0.05)
    assert reason is not None
    assert "within 0.05 s" in reason
    assert failure("{% for m in messages %}{{ m.content }}{% endfor %}", {}) is None


async def test_other_requests_are_answered_while_a_template_runs(
    make_app: MAKE_APP,
    text: ModelTokenizer,
    pool: FakePool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(render, "DEADLINE_S", 1.0)
    source = (
        "{% for m in messages %}{% if m.content == 'long' %}"
        + LOOPS
        + "{% endif %}{{ m.content }}{% endfor %}"
    )
    info = text.info.model_copy(update={"chat_template": source})
    client: Client = make_app(ModelTokenizer(info, text.backend)).test_client()

    async def health() -> list[float]:
        took: list[float] = []
        while not slow.done():
            begun = time.monotonic()
            assert (await client.get("/version")).status_code == 200
            took.append(time.monotonic() - begun)
            await asyncio.sleep(0.01)
        return took

    messages: list[dict[str, Any]] = [{"role": "user", "content": "long"}]
    for _ in range(2):  # the second one does not even begin on the event loop
        slow = asyncio.ensure_future(ask(client, messages=messages))
        took = await health()
        response, body = await slow
        assert response.status_code == 400, body
        assert "too long" in body["error"]["message"]
        assert len(took) > 5
        assert max(took) < 0.9
    response, _ = await ask(client)
    assert response.status_code == 200
