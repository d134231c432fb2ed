"""Keys from flags, files of options and variables: which hold, and that none is shown."""

from pathlib import Path

import pytest

from headrace.launcher.access.new_key import main
from headrace.launcher.command.options import OptionError, read_options
from headrace.protocol.api_keys import digest_of
from headrace.protocol.common import key_file
from headrace.protocol.config import PoolOptions

SECRET = "secret-0123456789"


def digests(pool: PoolOptions) -> tuple[list[str], list[str]]:
    """The digests of keys, and of admin keys."""
    return [key.digest for key in pool.api_keys], [key.digest for key in pool.admin_keys]


@pytest.mark.parametrize(
    ("words", "variables", "users", "admins"),
    [
        ([], {}, [], []),
        (["--api-key", "a"], {}, ["a"], []),
        (["--api_key=a"], {}, ["a"], []),
        (["--api-key", "a", "b", "--port", "1"], {}, ["a", "b"], []),
        (["--api-key", "a", "a"], {}, ["a"], []),
        (["--api-key", "a", "--api-key", "b"], {}, ["b"], []),  # the last, as in the reference
        (["--api-key=-a"], {}, ["-a"], []),
        (["--api-key", "a,b"], {}, ["a,b"], []),
        (["--admin-key", "a", "b"], {}, [], ["a", "b"]),
        ([], {"HEADRACE_API_KEY": "a", "HEADRACE_ADMIN_KEY": "b"}, ["a"], ["b"]),
        ([], {"HEADRACE_API_KEY": " a\n"}, ["a"], []),
        ([], {"HEADRACE_API_KEY": "a,b c"}, ["a,b c"], []),  # one key, as in the reference
        ([], {"VLLM_API_KEY": "a"}, ["a"], []),
        ([], {"VLLM_API_KEY": "a", "HEADRACE_API_KEY": "b"}, ["b"], []),
        ([], {"VLLM_API_KEY": "", "HEADRACE_API_KEY": ""}, [], []),
        (["--api-key", "a"], {"VLLM_API_KEY": "b", "HEADRACE_API_KEY": "c"}, ["a"], []),
        (["--api-key", "a"], {"HEADRACE_ADMIN_KEY": "c"}, ["a"], ["c"]),
    ],
)
def test_where_keys_come_from(
    words: list[str], variables: dict[str, str], users: list[str], admins: list[str]
) -> None:
    expected = [digest_of(key) for key in users], [digest_of(key) for key in admins]
    assert digests(read_options(words, variables).pool) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.toml", 'api_keys = ["a", "b"]\nadmin_keys = "c"'),
        ("c.yaml", "api-key: [a, b]\nadmin-key: c"),
        ("c.yaml", "api_key:\n- a\n- b\nadmin_key: c"),
    ],
)
def test_files_of_options(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    pool = read_options(["--config", str(tmp_path / name)], {"HEADRACE_API_KEY": "unused"}).pool
    assert digests(pool) == ([digest_of("a"), digest_of("b")], [digest_of("c")])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--api-key", ""], "^--api-key: must not be empty$"),
        (["--api-key", SECRET, ""], "^--api-key: must not be empty$"),
        (["--api-key", f"{SECRET}\t"], "^--api-key: must not hold control characters"),
        (
            ["--admin-key", SECRET, "--api-key", SECRET],
            "^--admin-key: must not be one",
        ),
        (
            ["--api-key", "a", f"-{SECRET}"],
            "^--api-key: a value that begins",
        ),
        (["--api-key", f"-{SECRET}"], "^--api-key: needs a value"),
        (["model", "--api-key=a", SECRET], "is neither a flag"),
        (["--api-key"], "^--api-key: needs a value"),
        (["--api-key", SECRET, "--port", "x"], "^--port: "),
        (["--api-key", SECRET, "--prot", "x"], "^--prot: no such flag|^--api-key: a value"),
    ],
)
def test_errors_show_no_key(words: list[str], said: str) -> None:
    with pytest.raises(OptionError, match=said) as caught:
        read_options(words, {})
    assert SECRET not in str(caught.value)


def test_bad_variables_are_named() -> None:
    with pytest.raises(OptionError, match=r"^HEADRACE_API_KEY: must not hold control") as caught:
        read_options([], {"HEADRACE_API_KEY": f"{SECRET}\x01"})
    assert SECRET not in str(caught.value)


def test_notices_show_no_key() -> None:
    variables = {"VLLM_API_KEY": SECRET, "HEADRACE_API_KEY": SECRET}
    options = read_options([], variables)
    assert any("VLLM_API_KEY changes nothing: HEADRACE" in line for line in options.notices)
    assert SECRET not in repr(options)


def test_a_new_key_fits_the_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = set()
    for words in (["--name", "team-a"], ["--name", "team-a", "--admin"], []):
        assert main(["new", *words]) == 0
        out = capsys.readouterr().out
        key = out.split()[1]
        assert key.startswith("headrace-")
        assert len(key) >= len("headrace-") + 43  # 256 bits
        assert f"sha256:{digest_of(key)}" in out.splitlines()[1]
        found.add(key)
        (entry,) = key_file.parse(out[out.index("[[keys]]") :].encode(), is_json=False)
        assert entry.digest == digest_of(key)
        assert entry.is_admin == ("--admin" in words)
        assert entry.name == "team-a" or not words
    assert len(found) == 3


@pytest.mark.parametrize("words", [[], ["old"], ["new", "--name", "a b"], ["new", "x"]])
def test_wrong_words_are_told(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err
