"""Formats are found in templates that write them, one small template for each."""

import threading
from typing import Any

import pytest

from headrace.frontend.chat.detection import formats
from headrace.frontend.chat.detection.reasoning_format import find_reasoning_format
from headrace.frontend.chat.detection.tool_format import find_tool_format
from headrace.frontend.chat.templates import ChatTemplate
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.config import GroupConfig, PoolConfig, ServingOptions
from headrace.protocol.reasoning import FORMATS
from headrace.protocol.text import TextInfo
from tests.frontend.text.tokenizers_for_tests import CHAT_TEMPLATE, EOS, byte_level

END = "<|im_end|>"


def chat_ml(call: str, *, tools: str = "{{ tools | tojson }}", prompt: str = "") -> str:
    """A template that writes calls so; `c.name` and `c.arguments` are the call's."""
    return (
        "{% if tools %}<|im_start|>system\n" + tools + "<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
        "{% for t in m.tool_calls or [] %}{% set c = t.function %}" + call + "{% endfor %}"
        "<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n" + prompt + "{% endif %}"
    )


JSON = '{"name": "{{ c.name }}", "arguments": {{ c.arguments | tojson }}}'
XML = (
    "<function={{ c.name }}>\n{% for k, v in c.arguments.items() %}<parameter={{ k }}>\n{{ v }}\n"
    "</parameter>\n{% endfor %}</function>"
)
INVOKE = (
    '<invoke name="{{ c.name }}">\n{% for k, v in c.arguments.items() %}<parameter name="{{ k }}">'
    "{{ v }}</parameter>\n{% endfor %}</invoke>"
)
ARGS = "{{ c.arguments | tojson }}"
PAIRS = "{% for k, v in c.arguments.items() %}"
LITERALS = PAIRS + "{{ k }}={{ v | tojson }}{{ ', ' if not loop.last }}{% endfor %}"
CALLS = {
    "hermes": f"<tool_call>\n{JSON}\n</tool_call>",
    "qwen3_coder": f"<tool_call>\n{XML}\n</tool_call>",
    "seed_oss": f"<seed:tool_call>\n{XML}\n</seed:tool_call>",
    "minimax_m2": f"<minimax:tool_call>\n{INVOKE}\n</minimax:tool_call>",
    "glm45": (
        f"<tool_call>{{{{ c.name }}}}\n{PAIRS}<arg_key>{{{{ k }}}}</arg_key>\n"
        "<arg_value>{{ v }}</arg_value>\n{% endfor %}</tool_call>"
    ),
    "kimi_k2": (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.{{ c.name }}:0"
        f"<|tool_call_argument_begin|>{ARGS}<|tool_call_end|><|tool_calls_section_end|>"
    ),
    "llama3_json": '{"name": "{{ c.name }}", "parameters": ' + ARGS + "}",
    "mistral": f"[TOOL_CALLS]{{{{ c.name }}}}[ARGS]{ARGS}",
    "deepseek": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{{ c.name }}<｜tool▁sep｜>"
        f"{ARGS}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "pythonic": f"[{{{{ c.name }}}}({LITERALS})]",
    "lfm2": f"<|tool_call_start|>[{{{{ c.name }}}}({LITERALS})]<|tool_call_end|>",
    "jamba": f"<tool_calls>[{JSON}]</tool_calls>",
    "granite-20b-fc": f"<function_call> {JSON}",
    "internlm": f"<|action_start|><|plugin|>{JSON}<|action_end|>",
    "openai": (
        "<|channel|>commentary to=functions.{{ c.name }} <|constrain|>json<|message|>"
        f"{ARGS}<|call|>"
    ),
}


@pytest.mark.parametrize("name", sorted(CALLS))
@pytest.mark.parametrize("prompt", ["", "<think>\n"])
def test_calls_that_a_template_writes(name: str, prompt: str) -> None:
    found = find_tool_format(ChatTemplate(chat_ml(CALLS[name], prompt=prompt), {}), [END], [END])
    assert found is not None
    assert (found.name, found.evidence) == (name, "the chat template writes them so")


def test_a_template_without_an_end_token_of_its_tokenizer() -> None:
    found = find_tool_format(ChatTemplate(chat_ml(CALLS["hermes"]), {}), [], [])
    assert found is not None
    assert found.name == "hermes"


def test_a_template_that_takes_arguments_as_text_or_refuses_other_ids() -> None:
    call = '{% if t.id | length != 9 %}{{ raise_exception("no") }}{% endif %}' + CALLS["hermes"]
    as_text = call.replace("c.arguments | tojson", "c.arguments.rstrip()")
    for source in (call, as_text):
        found = find_tool_format(ChatTemplate(chat_ml(source), {}), [END], [END])
        assert found is not None
        assert found.name == "hermes"


@pytest.mark.parametrize(
    "source",
    [
        CHAT_TEMPLATE,
        chat_ml("", tools=""),
        chat_ml("", tools="{{ tools | tojson }}"),
        chat_ml(f"<unknown>{JSON}</unknown>"),
        chat_ml("call {{ c.name }} with {{ c.arguments }}"),
        "{{ raise_exception('no') }}",
        "{{ messages[99].content }}",
    ],
)
def test_templates_that_write_no_calls_that_can_be_read(source: str) -> None:
    assert find_tool_format(ChatTemplate(source, {}), [END], [END], ["<think>", END]) is None


def test_instructions_and_tokens_tell_where_no_call_is_written() -> None:
    speaks = chat_ml("", tools="{{ tools | tojson }} Write <tool_call>{...}</tool_call>.")
    found = find_tool_format(ChatTemplate(speaks, {}), [], [])
    assert found is not None
    assert (found.name, found.evidence) == ("hermes", "the chat template speaks of <tool_call>")
    tokens = ["<|tool_call_start|>", "<|tool_call_end|>"]
    for shows, expected in ((True, "lfm2"), (False, None)):
        source = chat_ml("") if shows else CHAT_TEMPLATE
        found = find_tool_format(ChatTemplate(source, {}), [], [], tokens)
        assert (found and found.name) == expected


THINK = "{# <think> </think> #}"
OFF = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n{% endif %}"
ON = "{{ '<think>' if thinking else '</think>' }}"


@pytest.mark.parametrize(
    ("source", "name", "assumed"),
    [
        (CHAT_TEMPLATE, None, False),
        (chat_ml("", prompt=OFF), "qwen3", True),
        (THINK + chat_ml("", prompt="<think>\n"), "deepseek_r1", True),
        (chat_ml("", prompt=ON), "deepseek_v3", False),
        (THINK + CHAT_TEMPLATE, "think", False),
        ("{# </think> #}" + CHAT_TEMPLATE, "think", False),
        (chat_ml(CALLS["glm45"], prompt=OFF), "glm45", True),
        (THINK + chat_ml(CALLS["kimi_k2"]), "kimi_k2", False),
        (THINK + chat_ml(CALLS["minimax_m2"], prompt="<think>\n"), "minimax_m2", True),
        (chat_ml("", prompt="<seed:think>") + "{# </seed:think> #}", "seed_oss", True),
        ("{# [THINK] [/THINK] #}" + CHAT_TEMPLATE, "mistral", False),
        ("{# <|channel> <channel|> #}" + CHAT_TEMPLATE, "gemma4", False),
        ("<|channel|>analysis<|message|>" + CHAT_TEMPLATE, "openai_gptoss", True),
        (
            "Here is my thought process: Here is my response:" + CHAT_TEMPLATE,
            "granite",
            False,
        ),
    ],
)
def test_reasoning_that_a_template_knows(source: str, name: str | None, assumed: bool) -> None:
    found = find_reasoning_format(ChatTemplate(source, {}))
    assert (found and found.name) == name
    if found is not None:
        assert found.format.assumed == assumed
        assert found.format.start == FORMATS[found.name].start


def test_tags_with_a_suffix() -> None:
    source = chat_ml("", prompt=ON.replace("think>", "think:abc>"))
    found = find_reasoning_format(ChatTemplate(source, {}))
    assert found is not None
    assert (found.name, found.format.start, found.format.end) == (
        *("hy_v3", "<think:abc>"),
        "</think:abc>",
    )


def test_calls_of_a_template_may_end_its_reasoning() -> None:
    for call, expected in ((CALLS["hermes"], ("<tool_call>",)), ("", ())):
        found = find_reasoning_format(ChatTemplate(chat_ml(call, prompt="<think>\n</think>"), {}))
        assert found is not None
        assert found.format.ends_before == expected


def group(template: str, tmp_path: Any, **options: Any) -> tuple[PoolConfig, ModelTokenizer]:
    backend = byte_level()
    info = TextInfo(
        max_model_len=2048,
        vocab_size=backend.get_vocab_size(),
        eos_token_ids=(EOS,),
        chat_template=template,
    )
    one = GroupConfig(
        name="main",
        model="smol",
        model_path=tmp_path,
        text_path=tmp_path,
        served_names=("smol",),
        **options,
    )
    return PoolConfig(run_dir=tmp_path, groups=(one,)), ModelTokenizer(info, backend)


def test_the_log_says_what_was_found(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    config, tokenizer = group(
        chat_ml(CALLS["hermes"], prompt=OFF), tmp_path, reasoning_parser="auto"
    )
    found = formats.resolve_formats(config, {"main": tokenizer})
    formats.log_found(config, found)
    assert found["main"].tool_parser is not None
    assert found["main"].reasoning is not None
    lines = [record.getMessage() for record in caplog.records]
    # Plug-ins that other tests have registered are tried, too, and may fail.
    assert [line for line in lines if line.startswith("smol: ")] == [
        "smol: the chat template has tool calls as hermes (the chat template writes them so), "
        "reasoning as qwen3 (enable_thinking turns it on and off)"
    ]


def test_nothing_is_said_of_models_that_pool(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config, tokenizer = group("{{ 1 }}", tmp_path, reasoning_parser="auto")
    found = formats.resolve_formats(config, {"main": tokenizer})
    formats.log_found(config, found)
    assert "neither" in caplog.text
    caplog.clear()
    (one,) = config.groups
    engine = one.engine.model_copy(update={"runner": "pooling"})
    pooling = config.model_copy(update={"groups": (one.model_copy(update={"engine": engine}),)})
    formats.log_found(pooling, found)
    assert caplog.text == ""


def test_what_is_given_or_turned_off_is_not_looked_for(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config, tokenizer = group(
        chat_ml(CALLS["hermes"], prompt=OFF),
        tmp_path,
        serving=ServingOptions(tool_call_parser="none"),
    )
    found = formats.resolve_formats(config, {"main": tokenizer})
    formats.log_found(config, found)
    assert (found["main"].tool_parser, found["main"].reasoning) == (None, None)
    assert not caplog.records


def test_a_template_that_takes_too_long_is_stopped(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = group(CHAT_TEMPLATE, tmp_path)
    monkeypatch.setattr(formats, "_DEADLINE_S", 0.05)
    may_end = threading.Event()

    def run_until_told() -> None:
        while not may_end.is_set():
            pass

    assert formats._within_deadline(config.groups[0], run_until_told) is None
    examining = [thread for thread in threading.enumerate() if thread.name == "formats"]
    for thread in examining:
        thread.join(10)
    is_alive = [thread.is_alive() for thread in examining]
    may_end.set()
    assert not any(is_alive)


def test_a_template_that_takes_too_long_or_fails_has_nothing(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = group(CHAT_TEMPLATE, tmp_path)
    monkeypatch.setattr(formats, "_DEADLINE_S", 0.01)
    blocked = threading.Event()
    assert formats._within_deadline(config.groups[0], lambda: blocked.wait(60)) is None
    blocked.set()
    monkeypatch.setattr(formats, "_DEADLINE_S", 60)
    assert formats._within_deadline(config.groups[0], lambda: 1 // 0) is None
    assert formats._within_deadline(config.groups[0], lambda: 5) == 5
