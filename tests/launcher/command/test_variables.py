"""Variables of the environment that operators set for the reference."""

import pytest

from headrace.launcher.command.options import OptionError, option_fields, read_options
from headrace.launcher.command.variables import variables


def test_each_variable_that_does_something_names_an_option() -> None:
    done = [variable for variable in variables().values() if variable.treatment == "done"]
    assert done
    assert {variable.option for variable in done} <= option_fields().keys()
    assert len(variables()) >= 40


def test_what_they_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    environment = {
        "VLLM_LOGGING_LEVEL": "DEBUG",
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "5",
        "VLLM_ENGINE_READY_TIMEOUT_S": "900",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "HF_TOKEN": "x",
        "PATH": "/bin",
    }
    options = read_options([], environment)
    assert (options.pool.log_level, options.pool.enable_admin) == ("debug", True)
    assert (options.pool.keep_alive_s, options.pool.start_timeout_s) == (5, 900)
    assert options.groups[0].kv_cache_bytes == 2 * 2**30
    assert "VLLM_SERVER_DEV_MODE sets --enable-admin, unless that is given" in options.notices
    assert len(options.notices) == 5
    flags = ["--log-level", "error", "--kv-cache-memory-bytes", "1GiB"]
    options = read_options(flags, environment)
    assert (options.pool.log_level, options.groups[0].kv_cache_bytes) == ("error", 2**30)
    assert not read_options([], {"VLLM_SERVER_DEV_MODE": "0"}).pool.enable_admin


def test_memory_of_cpus_is_not_that_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    options = read_options([], {"VLLM_CPU_KVCACHE_SPACE": "2"})
    assert options.groups[0].kv_cache_bytes is None
    assert options.notices == ("VLLM_CPU_KVCACHE_SPACE changes nothing: the model runs on a GPU",)
    options = read_options(["--device", "cpu"], {"VLLM_CPU_KVCACHE_SPACE": "2"})
    assert options.groups[0].kv_cache_bytes == 2 * 2**30


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VLLM_USE_V1", "1"),
        ("VLLM_ATTENTION_BACKEND", "FLASH_ATTN"),
        ("VLLM_PORT", "tcp://10.0.0.1:8000"),
        ("VLLM_DO_NOT_TRACK", "1"),
        ("VLLM_SOMETHING_NEW", "1"),
        ("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1"),
    ],
)
def test_what_changes_nothing_is_said_in_the_log(name: str, value: str) -> None:
    (line,) = read_options([], {name: value}).notices
    assert line.startswith(f"{name} changes nothing: ")


@pytest.mark.parametrize("name", ["VLLM_USE_MODELSCOPE", "VLLM_PLUGINS"])
def test_what_would_change_answers_or_safety_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match=f"^{name}: ") as caught:
        read_options([], {name: "secret"})
    assert "secret" not in str(caught.value)
    assert read_options([], {name: ""}) == read_options([], {})


@pytest.mark.parametrize(
    ("name", "value"), [("VLLM_CPU_KVCACHE_SPACE", "x"), ("VLLM_LOG_STATS_INTERVAL", "-1")]
)
def test_wrong_values_name_the_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(OptionError, match=f"^{name}: "):
        read_options([], {name: value})
