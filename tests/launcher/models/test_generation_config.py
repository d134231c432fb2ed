"""Where sampling defaults come from."""

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.launcher.command.options import OptionError, parse
from headrace.launcher.models.generation_config import generation_defaults
from headrace.launcher.models.model_folder import ModelError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config = {"temperature": 0.6, "top_k": 20, "eos_token_id": 2, "max_new_tokens": 9}
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    return tmp_path


def test_the_models_none_or_a_folders(model: Path, tmp_path: Path) -> None:
    own = {"temperature": 0.6, "top_k": 20.0}
    assert generation_defaults(model, "auto", {}) == own
    assert generation_defaults(model, "vllm", {}) == {}
    other = tmp_path / "other"
    other.mkdir()
    assert generation_defaults(other, "auto", {}) == {}
    assert generation_defaults(other, str(model), {}) == own
    with pytest.raises(ModelError, match="--generation-config"):
        generation_defaults(model, str(other), {})


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
