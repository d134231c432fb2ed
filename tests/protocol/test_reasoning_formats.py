from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from headrace.protocol.config import GroupConfig
from headrace.protocol.reasoning import ALIASES, FORMATS, ReasoningFormat, parse_format

OF = TypeAdapter(ReasoningFormat)


def test_names_and_objects() -> None:
    assert parse_format("deepseek_r1") is FORMATS["deepseek_r1"]
    assert OF.validate_python(parse_format('{"start": "[a]", "end": "[/a]"}')) == ReasoningFormat(
        start="[a]", end="[/a]"
    )
    assert parse_format('{"start": "[a]", "end": "[/a]", "switch": "s"}')["switch"] == "s"
    assert parse_format(None) is None
    assert parse_format("auto") == "auto"
    assert parse_format("none") is parse_format("identity") is None


@pytest.mark.parametrize("text", ["deepseek_r2", "", "[1]", "{", "[" * 100_000])
def test_other_texts_name_what_there_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"deepseek_r1.*qwen3.*JSON object"):
        parse_format(text)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"start": "<a>"}, "end"),
        ({"start": "<a>", "end": ""}, "end"),
        ({"start": "<a>", "end": "x" * 65}, "end"),
        ({"start": "<a>", "end": "</a>\n"}, "white space"),
        ({"start": "|", "end": "|"}, "differ"),
        ({"start": "a", "end": "bc", "ends_before": ("xbcx",)}, "part of another"),
        ({"start": "a", "end": "bc", "tag": "x"}, "tag"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        OF.validate_python(values)


@pytest.mark.parametrize("name", sorted({*FORMATS, *ALIASES}))
def test_all_names_are_formats_that_can_be_told_apart(name: str) -> None:
    format_ = parse_format(name)
    assert isinstance(format_, ReasoningFormat)
    assert ReasoningFormat.model_validate_json(format_.model_dump_json()) == format_


# The reference's names, without those that are listed in docs/reasoning.md with the reason.
REFERENCE = """
deepseek_r1 deepseek_v3 deepseek_v4 deepseek_v41 poolside_v1 cohere_command3 cohere_command4 ernie45
gemma4 glm45 glm47 ling3 openai_gptoss granite granite_thinking_parser holo2 hunyuan_a13b hy_v3
hy_v4 kimi_k2 kimi_k3 k2_horizon mimo minicpmv minimax_m2 minimax_m2_append_think minimax_m3 mistral
nemotron_v3 olmo3 plamo3 qwen3 seed_oss step3 step3p5 step5 identity
"""
MISSING = "hf beam muse muse_glimmer musespark1x inkling"


def test_the_reference_s_names_are_known_or_explained() -> None:
    for name in REFERENCE.split():
        assert parse_format(name) is None or isinstance(parse_format(name), ReasoningFormat)
    docs = (Path(__file__).parents[2] / "docs/reasoning.md").read_text()
    for name in [*REFERENCE.split(), *MISSING.split(), "none", "auto", *FORMATS, *ALIASES]:
        assert f"`{name}`" in docs, name


@pytest.mark.parametrize(
    ("name", "variables", "is_on"),
    [
        ("qwen3", {}, True),
        ("qwen3", {"enable_thinking": False}, False),
        ("qwen3", {"thinking": False}, True),
        ("deepseek_v3", {}, False),
        ("deepseek_v3", {"thinking": True}, True),
        ("deepseek_v3", {"enable_thinking": True}, True),
        ("kimi_k2", {"thinking": False}, False),
        ("hy_v3", {"reasoning_effort": "high"}, True),
        ("hy_v3", {"reasoning_effort": "no_think"}, False),
        ("deepseek_r1", {"enable_thinking": False}, True),
    ],
)
def test_what_turns_reasoning_on(name: str, variables: dict[str, Any], is_on: bool) -> None:
    assert FORMATS[name].is_on(variables) is is_on


def test_a_group_goes_through_its_file() -> None:
    group = GroupConfig(
        name="main",
        model="m",
        model_path=Path("/m"),
        text_path=Path("/t"),
        served_names=("m",),
        reasoning_parser=FORMATS["qwen3"],
    )
    assert GroupConfig.model_validate_json(group.model_dump_json()) == group
