"""--config FILE.yaml: flags in the reference's format."""

from pathlib import Path

import pytest

from headrace.launcher.command.options import OptionError, Options, read_options


def read(folder: Path, text: str, *words: str, name: str = "config.yaml") -> Options:
    file = folder / name
    file.write_text(text)
    return read_options([*words, "--config", str(file)], {})


def test_flags_come_before_the_file(tmp_path: Path) -> None:
    text = """
        model: org/model
        port: 9000
        served-model-name: [a, b]
        tensor_parallel_size: 1
        enable-prefix-caching: false
        enforce-eager: true
        enable-chunked-prefill:
        max-model-len: 8k
        speculative-config:
          method: ngram
          num_speculative_tokens: 3
        structured-outputs-config:
          backend: xgrammar
    """
    options = read(tmp_path, text, "other/model", "--port", "9001")
    (group,) = options.groups
    assert (options.pool.port, group.model) == (9001, "other/model")
    assert (group.served_model_name, group.max_model_len) == (("a", "b"), 8000)
    assert (group.enable_prefix_caching, group.enforce_eager) == (False, True)
    assert group.speculative_config is not None
    assert [line.split()[0] for line in options.notices] == [
        "--tensor-parallel-size",
        "--structured-outputs-config.backend",
    ]
    assert read(tmp_path, text, name="config.yml").groups[0].model == "org/model"
    assert read(tmp_path, "") == read_options([], {})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("prot: 1", "config.yaml: --prot: no such flag"),
        ("- 1", "must give flags"),
        ("a: [", "is not YAML"),
        ("api-key: [secret", r"is not YAML: .* \(line 1, column"),
        ("api-key: 'secret", "is not YAML"),
        ("api-key: secret\n\tb: c", "is not YAML"),
        ("a: !!python/object/apply:print [x]", "is not YAML"),
        ("port: x", "--port: must be a whole number"),
        ('api-key: "secret "', "--api-key: must not hold"),
        ("config: other.yaml", "must not name another file"),
        ("enforce-eager: maybe", "--enforce-eager: must be true or false"),
        ("group: [{model: x}]", "--group: no such flag"),
        ("hf-overrides: &same {a: *same}", "config.yaml: holds more than 100000 values"),
        (
            "hf-overrides: {a: &many [" + "1, " * 1000 + "], b: [" + "*many, " * 200 + "]}",
            "config.yaml: holds more than 100000 values",
        ),
    ],
)
def test_wrong_files_are_named_in_one_line(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(OptionError, match=named) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
