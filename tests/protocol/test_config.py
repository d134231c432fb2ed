"""A configuration that is accepted comes back as it was; one that is not names the key."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from headrace.protocol.config import EngineConfig, GroupConfig, PoolConfig, SpeculativeConfig
from headrace.protocol.text import TextInfo

GROUP: dict[str, Any] = {
    "name": "main",
    "model": "some/model",
    "model_path": "/models/some",
    "text_path": "/run/headrace/text",
    "served_names": ["some", "other"],
}
ELASTIC = GROUP | {"autoscaling": {"min_workers": 0, "max_workers": 4, "target_requests": 1}}
POOL: dict[str, Any] = {"run_dir": "/run/headrace", "groups": [GROUP]}
TEXT: dict[str, Any] = {"max_model_len": 10, "vocab_size": 20}

POSITIVE = st.integers(1, 2**62)
ENGINES = st.builds(
    EngineConfig,
    engine=st.sampled_from(["torch", "fake"]),
    dtype=st.sampled_from(["auto", "float32", "bfloat16", "float16"]),
    max_model_len=st.none() | POSITIVE,
    kv_cache_bytes=st.none() | POSITIVE,
    memory_utilization=st.floats(0, 1, exclude_min=True),
    seed=st.integers(0, 2**63 - 1),
    fake_step_s=st.floats(0, 1e9),
    speculative_config=st.none()
    | st.builds(
        SpeculativeConfig,
        method=st.just("ngram"),
        num_speculative_tokens=st.integers(1, 32),
        prompt_lookup_max=st.none() | st.integers(5, 32),
        prompt_lookup_min=st.none() | st.integers(1, 5),
    ),
)
NAMES = st.text("abcXYZ019_-", min_size=1, max_size=40)
PATHS = st.sampled_from(["/a", "relative/b", "/with space/ü", "."]).map(Path)
GROUPS = st.builds(
    GroupConfig,
    name=NAMES,
    model=st.text(max_size=20),
    model_path=PATHS,
    text_path=PATHS,
    served_names=st.lists(st.text(max_size=20), min_size=1, max_size=3).map(tuple),
    workers=POSITIVE,
    engine=ENGINES,
)
WRONG: list[tuple[type[Any], dict[str, Any], dict[str, Any], str]] = [
    (EngineConfig, {}, {"dtype": "int8"}, "dtype"),
    (EngineConfig, {}, {"block_size": 0}, "block_size"),
    (EngineConfig, {}, {"block_size": 1.5}, "block_size"),
    (EngineConfig, {}, {"memory_utilization": 0}, "memory_utilization"),
    (EngineConfig, {}, {"memory_utilization": 1.01}, "memory_utilization"),
    (EngineConfig, {}, {"memory_utilization": float("nan")}, "memory_utilization"),
    (EngineConfig, {}, {"seed": -1}, "seed"),
    (EngineConfig, {}, {"seed": 2**63}, "seed"),
    (EngineConfig, {}, {"max_model_len": -5}, "max_model_len"),
    (GroupConfig, GROUP, {"name": ""}, "name"),
    (GroupConfig, GROUP, {"name": "a/b"}, "name"),
    (GroupConfig, GROUP, {"name": "../a"}, "name"),
    (GroupConfig, GROUP, {"name": "a\n"}, "name"),
    (GroupConfig, GROUP, {"served_names": []}, "served_names"),
    (GroupConfig, GROUP, {"workers": 0}, "workers"),
    (GroupConfig, ELASTIC | {"workers": 0}, {"workers": 5}, "workers"),
    (GroupConfig, GROUP, {"task": "paint"}, "task"),
    (GroupConfig, GROUP, {"engine": {"threads": 0}}, "engine.threads"),
    (PoolConfig, POOL, {"port": 65536}, "port"),
    (PoolConfig, POOL, {"port": "http"}, "port"),
    (PoolConfig, POOL, {"metrics_prefix": "a-b"}, "metrics_prefix"),
    (PoolConfig, POOL, {"metrics_prefix": ""}, "metrics_prefix"),
    (PoolConfig, POOL, {"groups": []}, "groups"),
    (PoolConfig, POOL, {"groups": [{**GROUP, "workers": -1}]}, "groups.0.workers"),
    (PoolConfig, POOL, {"stall_timeout_s": 0}, "stall_timeout_s"),
    (PoolConfig, POOL, {"log_level": "loud"}, "log_level"),
    (TextInfo, TEXT, {"max_model_len": 0}, "max_model_len"),
    (TextInfo, TEXT, {"added_tokens": {"a": "b"}}, "added_tokens.a"),
]


def locations(error: ValidationError) -> list[str]:
    return [".".join(str(part) for part in problem["loc"]) for problem in error.errors()]


@pytest.mark.parametrize(("cls", "valid", "wrong", "location"), WRONG)
def test_a_wrong_value_is_refused_by_name(
    cls: type[Any], valid: dict[str, Any], wrong: dict[str, Any], location: str
) -> None:
    cls.model_validate(valid)
    with pytest.raises(ValidationError) as caught:
        cls.model_validate({**valid, **wrong})
    assert any(found.startswith(location) for found in locations(caught.value))


@pytest.mark.parametrize(
    ("cls", "valid"),
    [(EngineConfig, {}), (GroupConfig, GROUP), (PoolConfig, POOL), (TextInfo, TEXT)],
)
def test_an_unknown_key_is_refused_by_name(cls: type[Any], valid: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        cls.model_validate({**valid, "no_such_key": 1})
    assert locations(caught.value) == ["no_such_key"]


@pytest.mark.parametrize(
    ("change", "location"),
    [
        ({"engine": {"no_such_key": 1}}, "groups.0.engine.no_such_key"),
        ({"no_such_key": 1}, "groups.0.no_such_key"),
    ],
)
def test_an_unknown_key_within_is_refused_too(change: dict[str, Any], location: str) -> None:
    with pytest.raises(ValidationError) as caught:
        PoolConfig.model_validate({**POOL, "groups": [{**GROUP, **change}]})
    assert locations(caught.value)[0] == location


@pytest.mark.parametrize("missing", ["name", "model", "model_path", "text_path", "served_names"])
def test_a_missing_key_is_named(missing: str) -> None:
    given_ = {key: value for key, value in GROUP.items() if key != missing}
    with pytest.raises(ValidationError) as caught:
        GroupConfig.model_validate(given_)
    assert locations(caught.value) == [missing]


def test_a_configuration_does_not_change() -> None:
    config = PoolConfig.model_validate(POOL)
    with pytest.raises(ValidationError):
        config.port = 1  # type: ignore[misc]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    groups=st.lists(GROUPS, min_size=1, max_size=3).map(tuple),
    port=st.integers(0, 65535),
    prefix=st.sampled_from(["vllm", "vllm:", "_a1"]),
    uds=st.none() | PATHS,
)
def test_what_is_saved_is_loaded(
    tmp_path: Path, groups: tuple[GroupConfig, ...], port: int, prefix: str, uds: Path | None
) -> None:
    config = PoolConfig(run_dir=tmp_path, groups=groups, port=port, metrics_prefix=prefix, uds=uds)
    config.save()
    loaded = PoolConfig.load(tmp_path)
    assert loaded == config
    assert loaded.metrics_prefix == prefix.removesuffix(":") + ":"
    assert [loaded.group(group.name) for group in groups[:1]] == [groups[0]]


def test_a_group_that_is_not_there() -> None:
    with pytest.raises(KeyError):
        PoolConfig.model_validate(POOL).group("other")


@given(
    added=st.dictionaries(st.integers(0, 2**31), st.text(max_size=10), max_size=5),
    templates=st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3),
    eos=st.lists(st.integers(0, 2**31), max_size=3).map(tuple),
    defaults=st.dictionaries(st.text(max_size=5), st.floats(-1e9, 1e9), max_size=3),
)
def test_text_info_survives_its_file(
    added: dict[int, str],
    templates: dict[str, str],
    eos: tuple[int, ...],
    defaults: dict[str, float],
) -> None:
    info = TextInfo(
        max_model_len=1,
        vocab_size=1,
        added_tokens=added,
        chat_templates=templates,
        eos_token_ids=eos,
        generation_defaults=defaults,
    )
    assert TextInfo.model_validate_json(info.model_dump_json()) == info
