"""Where sampling defaults come from."""

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.launcher.command.options import OptionError, parse
from headrace.launcher.models.generation_config import generation_defaults, output_ceiling
from headrace.launcher.models.model_folder import ModelError

EMPTY: dict[str, Any] = {}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config = {"temperature": 0.6, "top_k": 20, "eos_token_id": 2, "max_new_tokens": 9}
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    return tmp_path


def test_the_models_none_or_a_folders(model: Path, tmp_path: Path) -> None:
    own = {"temperature": 0.6, "top_k": 20.0, "max_new_tokens": 9.0}
    assert generation_defaults(model, "auto", {}) == own
    assert generation_defaults(model, "vllm", {}) == {}
    other = tmp_path / "other"
    other.mkdir()
    assert generation_defaults(other, "auto", {}) == {}
    assert generation_defaults(other, str(model), {}) == own
    with pytest.raises(ModelError, match="--generation-config"):
        generation_defaults(model, str(other), {})


def test_what_authors_recommend_elsewhere_goes_after_the_file(model: Path, tmp_path: Path) -> None:
    recommended = {"temperature": 0.2, "top_p": 0.9}
    of_both = {"temperature": 0.6, "top_k": 20.0, "top_p": 0.9, "max_new_tokens": 9.0}
    assert generation_defaults(model, "auto", {}, recommended) == of_both
    assert generation_defaults(model, "vllm", {}, recommended) == {}
    assert generation_defaults(tmp_path, str(model), {}, recommended).get("top_p") is None
    without = generation_defaults(model, "auto", {"temperature": None}, recommended)
    assert "temperature" not in without


def test_the_operators_go_before_them(model: Path) -> None:
    override = {"temperature": 0, "max_new_tokens": 50, "presence_penalty": -1}
    expected = {"temperature": 0, "top_k": 20, "max_new_tokens": 50, "presence_penalty": -1}
    assert generation_defaults(model, "auto", override) == expected
    assert generation_defaults(model, "vllm", {"top_p": 0.5}) == {"top_p": 0.5}


@pytest.mark.parametrize(
    "override",
    [{"temprature": 1}, {"top_p": "1"}, {"top_p": 1.5}, {"temperature": -1}, {"top_k": True}],
    ids=str,
)
def test_a_wrong_one_is_named(model: Path, override: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=next(iter(override))):
        generation_defaults(model, "auto", override)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("repetition_penalty", value) for value in (0, -1, 10**400, "1.1", [1], True)),
        *(("temperature", value) for value in (-0.5, float("nan"), float("inf"), "hot", EMPTY)),
        *(("top_p", value) for value in (0, 2, "x" * 10_000)),
        *(("top_k", value) for value in (20.5, -2, 2**40)),
        *(("min_p", value) for value in (-0.1, 1.5)),
        *(("presence_penalty", value) for value in (3, float("-inf"))),
        *(("frequency_penalty", value) for value in (-3,)),
        *(("max_new_tokens", value) for value in (0, -5, 5.5, "5", True)),
    ],
    ids=lambda value: str(value)[:12],
)
def test_an_authors_value_out_of_its_range_is_dropped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, value: Any
) -> None:
    """No request could be answered with it, for a field that no client has sent."""
    good = "min_p" if name == "top_k" else "top_k"
    (tmp_path / "generation_config.json").write_text(json.dumps({name: value, good: 1}))
    assert generation_defaults(tmp_path, "auto", {}) == {good: 1.0}
    (record,) = caplog.records
    text = record.getMessage()
    assert record.levelname == "WARNING"
    assert f"generation_config.json: {name} " in text
    assert len(text) < 400 + len(str(tmp_path))
    # The operator's value replaces it.
    assert generation_defaults(tmp_path, "auto", {name: 1})[name] == 1.0


def test_a_whole_number_may_be_written_as_a_fraction(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"top_k": 20.0, "max_new_tokens": 8.0}')
    assert generation_defaults(tmp_path, "auto", {}) == {"top_k": 20.0, "max_new_tokens": 8.0}


def test_the_length_is_a_default_though_decoding_is_greedy(tmp_path: Path) -> None:
    config = {"do_sample": False, "temperature": 0.6, "max_new_tokens": 9}
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    assert generation_defaults(tmp_path, "auto", {}) == {"max_new_tokens": 9.0}


def test_null_leaves_a_default_out(model: Path) -> None:
    override = {"max_new_tokens": None, "temperature": None}
    assert generation_defaults(model, "auto", override) == {"top_k": 20.0}


@pytest.mark.parametrize(
    ("source", "override", "ceiling"),
    [
        ("auto", {}, None),
        ("auto", {"max_new_tokens": None}, None),
        ("auto", {"max_new_tokens": 7}, 7),
        ("vllm", {}, None),
        ("vllm", {"max_new_tokens": 7}, 7),
        ("folder", {}, 9),
        ("folder", {"max_new_tokens": 7}, 7),
        ("folder", {"max_new_tokens": None}, None),
    ],
)
def test_only_the_operators_length_limits_all_outputs(
    model: Path, source: str, override: dict[str, Any], ceiling: int | None
) -> None:
    source = str(model) if source == "folder" else source
    defaults = generation_defaults(model, source, override)
    assert output_ceiling(source, override, defaults) == ceiling


def test_flags_reach_the_group() -> None:
    pool, (group,), _ = parse(
        [
            *("--response-role", "oracle", "--max-logprobs", "-1", "--generation-config", "vllm"),
            *("--override-generation-config", '{"top_p": 0.5}'),
            *("--default-chat-template-kwargs", '{"enable_thinking": false}'),
            *("--chat-template-content-format", "openai", "--trust-request-chat-template"),
            *("--return-tokens-as-token-ids", "--no-enable-prompt-tokens-details"),
            *("--enable-force-include-usage", "--enable-log-requests", "--enable-log-outputs"),
            *("--max-log-len", "10"),
        ]
    )
    serving = group.serving_options()
    assert (serving.response_role, serving.max_logprobs) == ("oracle", -1)
    assert serving.default_chat_template_kwargs == {"enable_thinking": False}
    assert serving.chat_template_content_format == "openai"
    assert serving.trust_request_chat_template
    assert serving.return_tokens_as_token_ids
    assert serving.enable_force_include_usage
    assert not serving.enable_prompt_tokens_details
    assert group.generation_config == "vllm"
    assert group.override_generation_config == {"top_p": 0.5}
    assert (pool.enable_log_requests, pool.enable_log_outputs, pool.max_log_len) == (True, True, 10)


def test_keys_of_a_file_mean_the_same(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(
        "enable_log_requests = true\n[[group]]\nmodel = 'm'\nmax_logprobs = 5\n"
        "override_generation_config = {temperature = 0.5}\n"
        "default_chat_template_kwargs = {enable_thinking = false}\n"
    )
    pool, (group,), _ = parse(["--config", str(file)])
    assert pool.enable_log_requests
    assert group.max_logprobs == 5
    assert group.override_generation_config == {"temperature": 0.5}
    assert group.default_chat_template_kwargs == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--enable-log-outputs"], "--enable-log-outputs"),
        (["--override-generation-config", "[1]"], "--override-generation-config"),
        (["--default-chat-template-kwargs", "{"], "--default-chat-template-kwargs"),
        (["--default-chat-template-kwargs", '{"tools": 1}'], "--default-chat-template-kwargs"),
        (["--chat-template-content-format", "xml"], "--chat-template-content-format"),
        (["--max-logprobs", "-2"], "--max-logprobs"),
        (["--max-log-len", "x"], "--max-log-len"),
        (["--response-role", ""], "--response-role"),
    ],
    ids=str,
)
def test_wrong_flags_are_named(flags: list[str], named: str) -> None:
    with pytest.raises(OptionError, match=f"^{named}"):
        parse(flags)
