"""Every flag of the reference is honoured, accepted with a line, or refused with what to do."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from headrace.launcher.command.flags import FLAGS
from headrace.launcher.command.given import opposite_of
from headrace.launcher.command.options import OptionError, Options, read_options
from headrace.launcher.command.reference import (
    ReferenceFlag,
    effects,
    reference_flags,
    synonyms,
    version,
)

OWN = {name: flag for flags in FLAGS.values() for flag in flags for name in flag.names}
OWN |= {other: flag for name, flag in OWN.items() if (other := opposite_of(name)) is not None}
# Values for flags that take not just any text.
VALUES = {
    "--allowed-headers": '["x-team"]',
    "--allowed-methods": '["GET", "POST"]',
    "--allowed-origins": '["https://a.example"]',
    "--block-size": "32",
    "--chat-template-content-format": "openai",
    "--config": "/none.yaml",
    "--convert": "embed",
    "--data-parallel-size": "2",
    "--disable-access-log-for-endpoints": "/health,/metrics",
    "--dtype": "half",
    "--fingerprint-mode": "hash",
    "--gpu-memory-utilization": "0.5",
    "--kv-cache-dtype": "fp8_e4m3",
    "--log-config-file": str(Path(__file__).with_name("log_config.json")),
    "--log-level": "DEBUG",
    "--lora-modules": "sql=/adapters/sql",
    "--max-lora-rank": "32",
    "--middleware": "package.module.name",
    "--max-model-len": "4K",
    "--override-generation-config": '{"temperature": 0.5}',
    "--override-pooler-config": '{"pooling_type": "CLS"}',
    "--pooler-config": '{"pooling_type": "MEAN"}',
    "--quantization": "int8",
    "--reasoning-effort-map": '{"xhigh": "max"}',
    "--reasoning-parser": "qwen3",
    "--root-path": "/v",
    "--runner": "pooling",
    "--speculative-config": '{"method": "ngram", "num_speculative_tokens": 3}',
    "--spec-method": "ngram",
    "--task": "embed",
    "--tool-server": "demo",
    "--tool-strict-level": "function",
    "--chat-template": "{{ messages }}",
    "--h11-max-header-count": "64",
    "--h11-max-incomplete-event-size": "32768",
    "--device": "cpu",
    "--uvicorn-log-level": "debug",
}
# Switches that are off in the reference and on here, or the opposite of what is off.
ON_HERE = ("--enable-prompt-tokens-details", "--disable-log-requests")
ALSO = {
    "--enable-log-outputs": ["--enable-log-requests"],
    "--fingerprint-value": ["--fingerprint-mode", "custom"],
    "--lora-modules": ["--enable-lora"],
    "--spec-method": ["--spec-tokens", "3"],
    "--spec-tokens": ["--spec-method", "ngram"],
    "--num-speculative-tokens": ["--spec-method", "ngram"],
    "--ngram-prompt-lookup-max": ["--spec-method", "ngram", "--spec-tokens", "3"],
    "--ngram-prompt-lookup-min": ["--spec-method", "ngram", "--spec-tokens", "3"],
}


# Flags whose files are read at once.
FILES = {
    "--config": "cannot read",
    "--ssl-certfile": "No such file",
    "--ssl-keyfile": "needs --ssl-certfile",
    "--ssl-ca-certs": "needs --ssl-certfile",
    "--ssl-ciphers": "needs --ssl-certfile",
    "--ssl-cert-reqs": "must be 0, 1 or 2",
    "--enable-ssl-refresh": "needs --ssl-certfile",
}


def read(*words: str) -> Options:
    return read_options(words, {})


def words_of(flag: ReferenceFlag) -> list[str]:
    """Return a flag with a value that is not its default."""
    if flag.kind in ("switch", "set"):
        is_on = flag.default is True or flag.name in ON_HERE
        return [f"--no-{flag.name[2:]}" if is_on else flag.name]
    value = VALUES.get(flag.name, "7")
    if flag.kind == "json" and value == "7":
        value = '{"a": 1}'
    return [flag.name, value]


def test_the_list_is_that_of_the_reference() -> None:
    assert version() == "0.33.0"
    sections = [flag.section for flag in reference_flags().values()]
    assert sections.count("frontend") >= 65
    assert sections.count("engine") >= 250
    assert sections.count("earlier") >= 30


def test_each_flag_has_one_fate() -> None:
    for name in reference_flags():
        fates = [name in OWN, name in effects(), name in synonyms()]
        assert sum(fates) == 1, name


def test_effects_are_of_flags_that_there_are() -> None:
    for name in effects().keys() | synonyms().keys():
        assert name.partition(".")[0] in reference_flags(), name
    assert {name.partition(".")[0] for name in synonyms().values()} <= OWN.keys()


@pytest.mark.parametrize("flag", reference_flags().values(), ids=lambda flag: flag.name)
def test_no_flag_is_unknown_or_forgotten(flag: ReferenceFlag) -> None:
    words = [*words_of(flag), *ALSO.get(flag.name, [])]
    effect = effects().get(flag.name)
    if flag.name in FILES:
        with pytest.raises(OptionError, match=f"^{flag.name}: .*{FILES[flag.name]}"):
            read(*words)
    elif effect is None:
        options = read(*words)
        assert not [line for line in options.notices if flag.name in line]
        assert options != read()
    elif effect.treatment == "refused":
        with pytest.raises(OptionError) as caught:
            read(*words)
        assert str(caught.value) == f"{flag.name}: {effect.says}"
    else:
        assert read(*words).notices == (f"{flag.name} changes nothing: {effect.says}",)


@pytest.mark.parametrize(
    "flag",
    [flag for flag in reference_flags().values() if flag.default is not None],
    ids=lambda flag: flag.name,
)
def test_a_default_that_is_given_is_never_refused(flag: ReferenceFlag) -> None:
    if flag.name in OWN or flag.name in synonyms() or flag.default == "":
        return
    if isinstance(flag.default, bool):
        words = [flag.name if flag.default else f"--no-{flag.name[2:]}"]
    else:
        words = [flag.name, str(flag.default)]
    assert len(read(*words).notices) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["-tp", "2"],
        ["--tensor_parallel_size=4"],
        ["--pipeline-parallel-size", "2"],
        ["--load-format", "bitsandbytes"],
        ["--mamba-cache-dtype", "float32"],
        ["--logprobs-mode", "raw_logits"],
        ["--headless"],
        ["--structured-outputs-config.disable_any_whitespace", "true"],
        ["--structured-outputs-config", '{"enable_in_reasoning": true}'],
        ["--spec-model", "x"],
        ["--speculative-config.method", "eagle3", "--speculative-config.num_speculative_tokens=2"],
    ],
    ids=" ".join,
)
def test_what_would_change_answers_or_safety_is_refused(words: Sequence[str]) -> None:
    with pytest.raises(OptionError) as caught:
        read(*words)
    text = str(caught.value)
    assert text.startswith("-")
    assert "\n" not in text
    assert "secret" not in text


@pytest.mark.parametrize(
    "words",
    [
        ["--tensor-parallel-size", "1"],
        ["--load-format", "safetensors"],
        ["--mamba-cache-dtype", "auto"],
        ["--enable-chunked-prefill"],
        ["--no-enable-chunked-prefill"],
        ["--enable-chunked-prefill=False"],
        ["--structured-outputs-config.backend", "xgrammar"],
        ["--structured-outputs-config", '{"backend": "guidance", "enable_in_reasoning": false}'],
        ["--compilation-config", '{"mode": 3, "cudagraph_mode": "FULL"}'],
        ["--compilation-config.cudagraph_mode=NONE"],
        ["-O3"],
        ["-cc", '{"mode": 0}'],
        ["--limit-mm-per-prompt.image", "1"],
        ["--scheduling-policy", "priority"],
    ],
    ids=" ".join,
)
def test_what_changes_nothing_is_said_in_the_log(words: Sequence[str]) -> None:
    options = read(*words)
    assert options.notices
    assert all(" changes nothing: " in line for line in options.notices)
    assert (options.pool, options.groups) == (read().pool, read().groups)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-q awq", "-q (--quantization): must be 'int8', 'int8_dynamic', 'q8_0',"),
        (
            "--kv-cache-dtype fp8_e5m2",
            "--kv-cache-dtype: must be 'auto', 'bfloat16', 'int8' or 'fp8': 'fp8_e5m2'",
        ),
        ("--data_parallel_size=x", "--data-parallel-size (--workers): must be a whole number: 'x'"),
        ("--workers x", "--workers: must be a whole number: 'x'"),
        ("-tp 2", "-tp (--tensor-parallel-size): a model runs on one device"),
    ],
)
def test_errors_name_flags_as_they_were_written(words: str, said: str) -> None:
    with pytest.raises(OptionError) as caught:
        read(*words.split())
    assert str(caught.value).startswith(said)


def test_replicas_of_this_machine_are_all_there_are() -> None:
    assert read("-dp", "2", "-dpl", "2") == read("-dp", "2")
    with pytest.raises(OptionError, match="--data-parallel-size-local"):
        read("-dp", "4", "-dpl", "2")


def test_a_checkpoint_says_how_its_weights_are_stored(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--quantization"):
        read(str(tmp_path), "-q", "awq")  # a folder of floats
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    for model, name in ((str(tmp_path), "awq"), ("organisation/name", "gptq_marlin")):
        options = read(model, "-q", name)
        assert (options.groups[0].quantization, len(options.notices)) == (None, 1)


def test_a_gguf_file_needs_no_quantization() -> None:
    options = read("m.gguf", "-q", "gguf")
    assert (options.groups[0].quantization, len(options.notices)) == (None, 1)
    with pytest.raises(OptionError, match="--quantization"):
        read("m", "-q", "gguf")


def test_parsers_that_are_not_given_or_off() -> None:
    for name in ("--reasoning-parser", "--tool-call-parser"):
        assert read(name, "") == read()
        assert read(name, "None") == read(name, "none")


def test_values_that_stand_for_none() -> None:
    assert read("m", "--quantization", "None", "--grpc-port", "", "--revision=None") == read("m")


def test_synonyms_mean_what_they_stand_for() -> None:
    ngram = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}
    ours = read("--speculative-config", json.dumps(ngram)).groups
    for words in (
        "--spec-method ngram --spec-tokens 3 -sc.prompt_lookup_max 4",
        "--spec-method=ngram --num-speculative-tokens=3 --ngram_prompt_lookup_max=4",
        "-sc.model [ngram] -sc.num_speculative_tokens 3 -sc.prompt_lookup_max 4",
    ):
        assert read(*words.split()).groups == ours
    ours = read("--reasoning-parser", "qwen3").groups
    theirs = read("--structured-outputs-config.reasoning_parser", "qwen3")
    assert (theirs.groups, theirs.notices) == (ours, ())
    rope = read("--rope-scaling", '{"type": "yarn", "factor": 4}', "--rope-theta", "1e6").groups[0]
    assert rope.hf_overrides == {"rope_scaling": {"type": "yarn", "factor": 4}, "rope_theta": 1e6}
    both = read("--structured-outputs-config.reasoning_parser", "x", "--reasoning-parser", "qwen3")
    assert both.groups == ours  # the flag itself comes first


def test_names_and_values_as_the_reference_writes_them() -> None:
    options = read(
        "org/model", "--served_model_name", "a", "b", "--max_model_len", "8k", "--dtype", "half",
        "--disable-log-requests", "--disable-prefix-caching", "--log_level", "WARN",
        "--default_chat_template_kwargs.enable_thinking", "false",
    )  # fmt: skip
    (group,) = options.groups
    assert (group.model, group.served_model_name) == ("org/model", ("a", "b"))
    assert group.max_model_len == 8000
    assert (group.dtype, group.enable_prefix_caching) == ("float16", False)
    assert group.default_chat_template_kwargs == {"enable_thinking": False}
    assert (options.pool.enable_log_requests, options.pool.log_level) == (False, "warning")
    assert read("--max-model-len", "auto") == read("--max-model-len", "-1") == read()
    assert read("--max-model-len", "8K").groups[0].max_model_len == 8192


@pytest.mark.parametrize("words", [["a", "b"], ["a,b"], ['["a", "b"]'], ["a, b"]], ids=" ".join)
def test_lists_with_spaces_commas_or_in_json(words: list[str]) -> None:
    assert read("--served-model-name", *words).groups[0].served_model_name == ("a", "b")


def test_adapters_in_a_json_list() -> None:
    modules = [{"name": "a", "path": "/a"}, {"name": "b", "path": "/b", "base_model_name": "m"}]
    group = read("--enable-lora", "--lora-modules", json.dumps(modules)).groups[0]
    assert [module.path for module in group.lora_modules] == ["/a", "/b"]
    with pytest.raises(OptionError, match="--lora-modules"):
        read("--enable-lora", "--lora-modules", "[1]")


def test_limits_of_all_workers_together() -> None:
    from headrace.launcher.command.queue_shares import with_shares

    (group,) = read("--max-num-queued-reqs", "300", "--max-num-queued-tokens", "10k").groups
    engine = with_shares(group.engine_config(), group, 2)
    assert (engine.max_num_seqs, engine.max_queue_requests) == (128, 22)
    assert engine.max_queue_tokens == 5000
    (group,) = read("--max-num-queued-reqs", "3").groups
    engine = with_shares(group.engine_config(), group, 2)
    assert (engine.max_num_seqs, engine.max_queue_requests) == (1, 0)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("auto", "auto"),
        ("bf16", "bfloat16"),
        ("bfloat16", "bfloat16"),
        ("int8_per_token_head", "int8"),
        ("fp8_e4m3", "fp8"),
        ("fp8_per_token_head", "fp8"),
    ],
)
def test_names_of_the_types_of_the_cache(name: str, meant: str) -> None:
    options = read("--kv-cache-dtype", name)
    assert options.groups[0].engine_config().kv_cache_dtype == meant
    assert not options.notices
