"""Flags and TOML: what they mean, and that wrong ones are named in one line."""

from pathlib import Path

import pytest

from headrace.launcher.command.flags import FLAGS
from headrace.launcher.command.options import OptionError, parse, parse_size, read_options
from headrace.protocol.config import SpeculativeConfig
from headrace.protocol.reasoning import FORMATS, ReasoningFormat


def test_defaults() -> None:
    pool, (group,), run_dir = parse([])
    assert (pool.host, pool.port, pool.frontends) == ("127.0.0.1", 8000, 2)
    assert (group.model, group.workers, group.name) == (None, None, "default")
    assert run_dir is None


def test_vllm_spellings_mean_the_same() -> None:
    ours = parse(["--frontends", "3", "--workers", "4"])
    theirs = parse(["--api-server-count", "3", "--data-parallel-size", "4"])
    assert ours == theirs
    assert ours[0].frontends == 3
    assert ours[1][0].workers == 4


def test_stats_are_logged_unless_it_is_said() -> None:
    pool, _, _ = parse([])
    assert (pool.disable_log_stats, pool.log_stats_interval_s) == (False, 10.0)
    pool, _, _ = parse(["--disable-log-stats", "--start-timeout", "900"])
    assert pool.disable_log_stats
    assert pool.start_timeout_s == 900


def test_group_flags_reach_the_engine() -> None:
    _, (group,), _ = parse(
        "--model m --served-model-name a b --dtype float32 --max-model-len 1k --max-num-seqs 7"
        " --max-num-batched-tokens 64 --kv-cache-memory-bytes 2GiB --block-size 8"
        " --no-enable-prefix-caching --gpu-memory-utilization 0.5 --device cpu --enforce-eager"
        " --seed 5 --threads 2 --quantization int8_dynamic".split()
    )
    engine = group.engine_config()
    assert group.served_model_name == ("a", "b")
    assert (engine.dtype, engine.max_model_len, engine.max_num_seqs) == ("float32", 1000, 7)
    assert (engine.kv_cache_bytes, engine.block_size) == (2 * 2**30, 8)
    assert not engine.enable_prefix_caching
    assert engine.enforce_eager
    assert (engine.memory_utilization, engine.device) == (0.5, "cpu")
    assert (engine.seed, engine.threads, engine.max_num_batched_tokens) == (5, 2, 64)
    assert engine.quantization == "int8_dynamic"
    _, (short,), _ = parse(["-q", "int8"])
    assert short.engine_config().quantization == "int8"


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--prot 1", "--prot"),
        ("--port x", "--port"),
        ("--port 65536", "--port"),
        ("--frontends 0", "--frontends"),
        ("--workers -1", "--workers"),
        ("--cpu-weight 0", "--cpu-weight"),
        ("--dtype int3", "--dtype"),
        ("--quantization int3", "--quantization"),
        ("--max-model-len 1.5.5", "--max-model-len"),
        ("--kv-cache-memory-bytes much", "--kv-cache-memory-bytes"),
        ("--gpu-memory-utilization 1.5", "--gpu-memory-utilization"),
        ("--stall-timeout 0", "--stall-timeout"),
        ("--start-timeout 0", "--start-timeout"),
        ("--log-stats-interval 0", "--log-stats-interval"),
        ("--metrics-prefix a-b", "--metrics-prefix"),
        ("--config /does/not/exist.toml", "--config"),
        ("--uds /tmp/x --port 1", "--uds"),
        ("--model", "--model"),
    ],
)
def test_wrong_flags_are_named_in_one_line(flags: str, named: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse(flags.split())
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_groups_from_a_file_and_flags_before_it(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(
        'port = 9000\nfrontends = 4\n[[group]]\nname = "a"\nmodel = "x"\nworkers = 2\n'
        '[[group]]\nname = "b"\nserved_model_name = "bee"\nmax_model_len = "2Ki"\n'
    )
    pool, groups, _ = parse(["--config", str(file), "--port", "9001"])
    assert (pool.port, pool.frontends) == (9001, 4)
    assert [(group.name, group.model, group.workers) for group in groups] == [
        ("a", "x", 2),
        ("b", None, None),
    ]
    assert groups[1].served_model_name == ("bee",)
    assert groups[1].max_model_len == 2048


NAMES = sorted(
    {
        name.removeprefix("--")
        for flags in FLAGS.values()
        for flag in flags
        for name in (*flag.names, "--" + flag.key)
        if name.startswith("--") and flag.key != "config"
    }
)


@pytest.mark.parametrize("suffix", [".toml", ".yaml"])
@pytest.mark.parametrize("is_dashed", [True, False], ids=["dashes", "underscores"])
@pytest.mark.parametrize("name", NAMES)
def test_every_flags_name_is_a_key(tmp_path: Path, name: str, is_dashed: bool, suffix: str) -> None:
    """And so is the key of its option. Not each takes a 1, but none is unknown."""
    key = name.replace("_", "-") if is_dashed else name.replace("-", "_")
    file = tmp_path / f"pool{suffix}"
    file.write_text(f"{key} = 1" if suffix == ".toml" else f"{key}: 1")
    try:
        parse(["--config", str(file)])
        said = key
    except OptionError as error:
        said = str(error)
    assert "unknown" not in said
    assert "no such" not in said
    named = key if suffix == ".toml" else ""  # YAML's are flags, which have one name in errors
    assert named.replace("_", "-").removesuffix("-s") in said.replace("_", "-")


@pytest.mark.parametrize(
    ("key", "value", "flags"),
    [
        ("kv_cache_memory_bytes", "'2GiB'", ["--kv-cache-memory-bytes", "2GiB"]),
        ("kv-cache-bytes", "4096", ["--kv-cache-memory-bytes", "4096"]),
        ("gpu-memory-utilization", "0.5", ["--gpu-memory-utilization", "0.5"]),
        ("device_memory_utilization", "0.5", ["--gpu-memory-utilization", "0.5"]),
        ("api-server-count", "3", ["--frontends", "3"]),
        ("served-model-name", "['a', 'b']", ["--served-model-name", "a", "b"]),
        ("request-timeout", "2.5", ["--request-timeout", "2.5"]),
        ("no-enable-prefix-caching", "true", ["--no-enable-prefix-caching"]),
        ("disable-prefix-caching", "true", ["--no-enable-prefix-caching"]),
        ("enable_lora", "true", ["--enable-lora"]),
        ("run-dir", "'/tmp/x'", ["--run-dir", "/tmp/x"]),
        ("model", "'m'", ["m"]),
    ],
)
def test_keys_mean_what_flags_mean(tmp_path: Path, key: str, value: str, flags: list[str]) -> None:
    for file, separator in ((tmp_path / "a.toml", " = "), (tmp_path / "a.yaml", ": ")):
        file.write_text(f"{key}{separator}{value}")
        assert parse(["--config", str(file)]) == parse(flags)


def test_keys_of_a_group_are_flags_names_too(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(
        "shutdown-timeout = 3\nrun-dir = '/tmp/x'\nno-warm-starts = true\n"
        "[[group]]\nmodel = 'x'\nkv-cache-memory-bytes = '1MiB'\ntensor_parallel_size = 1\n"
        "disable_prefix_caching = true\n"
        "[[group]]\nname = 'b'\nkv_cache_bytes = 7\ngpu_memory_utilization = 0.5\n"
    )
    options = read_options(["--config", str(file)], {})
    assert (options.pool.shutdown_timeout_s, options.pool.warm_starts) == (3.0, False)
    assert options.run_dir == Path("/tmp/x")
    assert [group.kv_cache_bytes for group in options.groups] == [1 << 20, 7]
    assert options.groups[0].enable_prefix_caching is False
    assert options.groups[1].memory_utilization == 0.5


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("kv-cache-memory-bytes = 1\nkv_cache_bytes = 2", "kv_cache_bytes: is given twice"),
        (
            "port = 1\n[[group]]\nkv-cache-memory-bytes = 0",
            "group 0: kv-cache-memory-bytes: must be",
        ),
        ("shutdown-timeout = 'x'", "shutdown-timeout: must be a number"),
        ("shutdown_timeout_s = 'x'", "shutdown_timeout_s: must be a number"),
        ("config = 'x.toml'", "--config: {file}: must not name another file"),
        ("tensor_parallel_size = 2", "--tensor-parallel-size: "),
        ("[[group]]\ntensor_parallel_size = 2", "group 0: --tensor-parallel-size: "),
    ],
)
def test_wrong_keys_are_named_as_written(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(text)
    with pytest.raises(OptionError) as caught:
        parse(["--config", str(file)])
    assert str(caught.value).startswith(named.format(file=file))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("prot = 1", "prot"),
        ("[[group]]\nmodle = 1", "modle"),
        ('[[group]]\nname = "a"\n[[group]]\nname = "a"', "'a'"),
        ("group = 3", "group"),
        ("[[group]]\nname = 'a/b'", "name"),
        ("port = ", "TOML"),
        ("port = " + "[" * 3000, "TOML"),
    ],
)
def test_wrong_files_are_named_in_one_line(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(text)
    with pytest.raises(OptionError) as caught:
        parse(["--config", str(file)])
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_group_flags_and_groups_in_a_file_exclude_each_other(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text('[[group]]\nmodel = "x"\n')
    with pytest.raises(OptionError, match="--model"):
        parse(["--config", str(file), "--model", "y"])


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("1k", 1000),
        ("1Ki", 1024),
        ("1.5GiB", 1610612736),
        ("2 GB", 2 * 10**9),
        ("9007199254740993", 2**53 + 1),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1X", "1 2", "0x10", "1e5", "9" * 500])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="size") as caught:
        parse_size(text)
    assert len(str(caught.value)) < 200


def test_speculation_by_flag_and_in_a_file(tmp_path: Path) -> None:
    value = '{"method":"ngram","num_speculative_tokens":4,"prompt_lookup_max":4}'
    _, (by_flag,), _ = parse(["--speculative-config", value])
    engine = by_flag.engine_config()
    assert engine.speculative_config == SpeculativeConfig(
        method="ngram", num_speculative_tokens=4, prompt_lookup_max=4, prompt_lookup_min=4
    )
    file = tmp_path / "headrace.toml"
    file.write_text(
        "[[group]]\n[group.speculative_config]\n"
        'method = "ngram"\nnum_speculative_tokens = 4\nprompt_lookup_max = 4\n'
    )
    _, (by_file,), _ = parse(["--config", str(file)])
    assert by_file.engine_config() == engine
    assert parse([])[1][0].engine_config().speculative_config is None


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("4", "JSON object"),
        ("{", "JSON object"),
        ("[" * 100_000, "JSON object"),
        ('{"num_speculative_tokens": 4}', "method"),
        ('{"method": "eagle", "num_speculative_tokens": 4}', "method"),
        ('{"method": "ngram"}', "num_speculative_tokens"),
        ('{"method": "ngram", "num_speculative_tokens": 0}', "num_speculative_tokens"),
        ('{"method": "ngram", "num_speculative_tokens": 4, "model": "x"}', "model"),
        (
            '{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 0}',
            "prompt_lookup_max",
        ),
        (
            '{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 2,'
            ' "prompt_lookup_min": 3}',
            "prompt_lookup_min: must not exceed prompt_lookup_max",
        ),
    ],
)
def test_wrong_speculation_is_named_in_one_line(value: str, named: str) -> None:
    with pytest.raises(OptionError, match=named) as caught:
        parse(["--speculative-config", value])
    assert str(caught.value).startswith("--speculative-config: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flag", ["--shutdown-timeout", "--stall-timeout"])
@pytest.mark.parametrize("value", ["inf", "nan", "-1"])
def test_times_are_finite_numbers(flag: str, value: str) -> None:
    with pytest.raises(OptionError, match=flag):
        parse([flag, value])


def test_reasoning_by_flag_and_in_a_file(tmp_path: Path) -> None:
    assert parse([])[1][0].reasoning_parser == "auto"
    assert parse(["--reasoning-parser", "none"])[1][0].reasoning_parser is None
    assert parse(["--reasoning-parser", "qwen3"])[1][0].reasoning_parser == FORMATS["qwen3"]
    tags = ReasoningFormat(start="[THINK]", end="[/THINK]", assumed=True)
    value = '{"start": "[THINK]", "end": "[/THINK]", "assumed": true}'
    assert parse(["--reasoning-parser", value])[1][0].reasoning_parser == tags
    file = tmp_path / "headrace.toml"
    file.write_text(
        '[[group]]\nname = "a"\nreasoning_parser = "deepseek_r1"\n'
        '[[group]]\nname = "b"\n[group.reasoning_parser]\n'
        'start = "[THINK]"\nend = "[/THINK]"\nassumed = true\n'
    )
    _, groups, _ = parse(["--config", str(file)])
    assert [group.reasoning_parser for group in groups] == [FORMATS["deepseek_r1"], tags]


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("deepseek", "qwen3, seed_oss"),
        ('{"start": "<a>"}', "^--reasoning-parser: end: is missing$"),
        ('{"start": "", "end": "</a>"}', "^--reasoning-parser: start: must have at least 1 char"),
        ('{"start": "<a>", "end": "<a>"}', "differ"),
        ('{"start": "<a>", "end": "</a>", "model": "x"}', "model"),
    ],
)
def test_a_wrong_reasoning_parser_is_named_in_one_line(value: str, named: str) -> None:
    with pytest.raises(OptionError, match=named) as caught:
        parse(["--reasoning-parser", value])
    assert str(caught.value).startswith("--reasoning-parser: ")
    assert "\n" not in str(caught.value)


def test_where_responses_are_stored_and_whose_tools_they_use(tmp_path: Path) -> None:
    pool, _, _ = parse([])
    assert (pool.response_store_url, pool.tool_server) == (None, ())
    url = "postgresql+psycopg://me:secret@db/headrace"
    flags = ["--response-store-url", url, "--response-store-max-age", "60"]
    tools = ["--tool-server", "demo, 127.0.0.1:9000,https://tools.example/mcp"]
    pool, _, _ = parse([*flags, "--response-store-max-count", "5", *tools])
    assert pool.response_store_url == url
    assert (pool.response_store_max_age_s, pool.response_store_max_count) == (60, 5)
    assert pool.tool_server == ("demo", "127.0.0.1:9000", "https://tools.example/mcp")
    pool, _, _ = parse(["--response-store-url", "sqlite:///a/b.db"])
    assert pool.response_store_url == f"sqlite:///{Path.cwd()}/a/b.db"


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--response-store-url", "mysql://me:secret@db/x"),
        ("--response-store-url", "sqlite:///:memory:"),
        ("--response-store-url", "sqlite://"),
        ("--response-store-url", "secret"),
        ("--response-store-max-age", "0"),
        ("--response-store-max-count", "-1"),
        ("--tool-server", "nonsense"),
        ("--tool-server", "demo,ftp://x"),
        ("--tool-server", "http://me:secret@host/"),
    ],
)
def test_wrong_stores_and_tool_servers(flag: str, value: str) -> None:
    with pytest.raises(OptionError, match=flag) as caught:
        parse([flag, value])
    assert flag == "--tool-server" or "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "extra"),
    [
        (["--response-store-url", "postgresql+psycopg://db/x"], "postgresql"),
        (["--tool-server", "demo,host:1"], "mcp"),
    ],
)
def test_an_extra_that_is_missing_is_named(
    flags: list[str], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=rf"{flags[0]}.*\[{extra}\]"):
        parse(flags)
    parse(["--tool-server", "demo"])


def test_group_is_not_called_as_frontends_are(tmp_path: Path) -> None:
    file = tmp_path / "pool.toml"
    file.write_text('[[group]]\nname = "frontend"\n')
    with pytest.raises(OptionError, match=r"group 0: name: .*what frontends are called"):
        parse(["--config", str(file)])


class TestAdapters:
    def test_from_flags(self) -> None:
        modules = ["sql=/a/sql", '{"name": "css", "path": "org/css", "base_model_name": "m"}']
        flags = ["--enable-lora", "--lora-modules", *modules, "--max-lora-rank", "64"]
        _, (group,), _ = parse([*flags, "--max-loras", "3", "--lora-dir", "adapters"])
        assert [(each.name, each.path) for each in group.lora_modules] == [
            ("sql", "/a/sql"),
            ("css", "org/css"),
        ]
        engine = group.engine_config()
        assert (engine.enable_lora, engine.max_loras, engine.max_lora_rank) == (True, 3, 64)

    def test_from_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "pool.toml"
        file.write_text(
            'lora_dir = "/adapters"\n[[group]]\nenable_lora = true\nmax_lora_rank = 8\n'
            'lora_modules = ["sql=/a/sql", {name = "css", path = "/a/css"}]\n'
        )
        pool, (group,), _ = parse(["--config", str(file)])
        assert pool.lora_dir == Path("/adapters")
        assert [each.name for each in group.lora_modules] == ["sql", "css"]

    @pytest.mark.parametrize("value", ['"sql=/a/sql"', '{name = "sql", path = "/a/sql"}'])
    def test_one_in_a_file_needs_no_list(self, value: str, tmp_path: Path) -> None:
        file = tmp_path / "pool.toml"
        file.write_text(f"enable-lora = true\nlora-modules = {value}\n")
        _, (group,), _ = parse(["--config", str(file)])
        assert [(each.name, each.path) for each in group.lora_modules] == [("sql", "/a/sql")]

    def test_what_is_no_list_is_named_so(self, tmp_path: Path) -> None:
        file = tmp_path / "pool.toml"
        file.write_text("enable-lora = true\nlora-modules = 5\n")
        with pytest.raises(OptionError, match=r"^lora-modules: must be a list$"):
            parse(["--config", str(file)])

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (["--enable-lora", "--lora-modules", "sql"], "must be name=path"),
            (["--enable-lora", "--lora-modules", "=x"], "must be name=path"),
            (["--enable-lora", "--lora-modules", '{"name": "a"}'], "path"),
            (["--enable-lora", "--lora-modules", '{"name": "a", "path": "b", "c": 1}'], "c"),
            (["--lora-modules", "sql=/a"], "--lora-modules: needs --enable-lora"),
            (["--enable-lora", "--max-lora-rank", "7"], "--max-lora-rank"),
            (["--enable-lora", "--max-loras", "0"], "--max-loras"),
        ],
    )
    def test_that_cannot_be(self, flags: list[str], said: str) -> None:
        with pytest.raises(OptionError, match=said):
            parse(flags)
