from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from headrace.protocol.config import GroupConfig
from headrace.protocol.reasoning import FORMATS, ReasoningFormat, parse_format

OF = TypeAdapter(ReasoningFormat)


def test_names_and_objects() -> None:
    assert parse_format("deepseek_r1") is FORMATS["deepseek_r1"]
    assert OF.validate_python(parse_format('{"start": "[a]", "end": "[/a]"}')) == ReasoningFormat(
        start="[a]", end="[/a]"
    )
    assert parse_format(None) is None


@pytest.mark.parametrize("text", ["deepseek_r2", "", "[1]", "{", "[" * 100_000])
def test_other_texts_name_what_there_is(text: str) -> None:
    with pytest.raises(ValueError, match="deepseek_r1, qwen3"):
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
