"""The file of API keys: what it may say, and errors that name the entry and no secret."""

import json
import os
from pathlib import Path

import pytest

from headrace.protocol.api_keys import ApiKey, KeyLimits, digest_of, unnamed_key
from headrace.protocol.common import key_file
from headrace.protocol.common.key_file import BadKeyFile

SECRET = "se-cr-et-0123456789"
TOML = f"""
# Keys of two teams.
[[keys]]
name = "search"
key = "{SECRET}"

[[keys]]
name = "ops"
hash = "sha256:{digest_of("other").upper()}"
tenant = "team-a"
admin = true
models = ["chat", "small"]
[keys.limits]
requests_per_minute = 60
tokens_per_minute = 1000
max_requests = 2
"""
KEYS = (
    ApiKey(name="search", digest=digest_of(SECRET), tenant="search"),
    ApiKey(
        name="ops",
        digest=digest_of("other"),
        tenant="team-a",
        is_admin=True,
        models=("chat", "small"),
        limits=KeyLimits(requests_per_minute=60, tokens_per_minute=1000, max_requests=2),
    ),
)
ENTRIES = [
    {"name": "search", "key": SECRET},
    {
        "name": "ops",
        "hash": digest_of("other"),
        "tenant": "team-a",
        "admin": True,
        "models": ["chat", "small"],
        "limits": {"requests_per_minute": 60, "tokens_per_minute": 1000, "max_requests": 2},
    },
]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("keys.toml", TOML),
        ("keys", TOML),
        ("keys.toml", "\ufeff" + TOML),
        ("keys.json", json.dumps({"keys": ENTRIES})),
        ("keys.json", json.dumps(ENTRIES)),
    ],
)
def test_both_formats_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert key_file.read(tmp_path / name) == KEYS


def test_no_keys_must_be_said(tmp_path: Path) -> None:
    assert key_file.parse(b"keys = []", is_json=False) == ()
    assert key_file.parse(b'{"keys": []}', is_json=True) == ()
    for text, is_json in ((b"", False), (b"# nothing\n", False), (b"{}", True), (b"null", True)):
        with pytest.raises(BadKeyFile, match=r"keys: must be a list"):
            key_file.parse(text, is_json)


def entry(**fields: object) -> bytes:
    return json.dumps([{"name": "first", "key": "other"}, fields]).encode()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (entry(name="x"), r"keys\[1\] \('x'\): needs either key or hash"),
        (entry(name="x", key=SECRET, hash=digest_of(SECRET)), r"\('x'\): needs either key or hash"),
        (entry(key=SECRET), r"keys\[1\]: name: is missing"),
        (entry(name="a b", key=SECRET), r"keys\[1\] \('a b'\): name: is not of the right form"),
        (entry(name="x\n", key=SECRET), r"name: is not of the right form"),
        (entry(name="x", hash=SECRET), r"\('x'\): hash: is not of the right form"),
        (entry(name="x", hash=digest_of(SECRET)[1:]), r"hash: is not of the right form"),
        (entry(name="x", hash=digest_of(SECRET) + "\n"), r"hash: is not of the right form"),
        (entry(name="x", key=""), r"\('x'\): key: must not be empty"),
        (entry(name="x", key=f" {SECRET}"), r"key: must not hold control characters"),
        (entry(name="x", key=f"{SECRET}\n"), r"key: must not hold control characters"),
        (entry(name="x", key=SECRET * 100), r"key: must not have more than 1024 bytes"),
        (entry(name="x", key=5), r"\('x'\): key: "),
        (entry(name="x", key=SECRET, admin="maybe"), r"\('x'\): admin: "),
        (entry(name="x", key=SECRET, models=[]), r"\('x'\): models: "),
        (entry(name="x", key=SECRET, models="chat"), r"\('x'\): models: "),
        (entry(name="x", key=SECRET, tenant=""), r"\('x'\): tenant: is not of the right form"),
        (entry(name="x", key=SECRET, limits={"max_requests": 0}), r"limits\.max_requests: "),
        (entry(name="x", key=SECRET, limits={"rpm": 5}), r"limits\.rpm: is unknown"),
        (entry(name="x", key=SECRET, secret=SECRET), r"\('x'\): secret: is unknown"),
        (entry(name="x", key="k", **{SECRET: True}), r"\('x'\): a field: is unknown"),
        (entry(name="x", key="k", **{"a\nb": True}), r"\('x'\): a field: is unknown"),
        (json.dumps({"keys": [], SECRET: "x"}).encode(), "^a field: is unknown"),
        (b"[" + b"9" * 5000 + b"]", "is not JSON"),
        (entry(name="first", key=SECRET), r"\('first'\): another entry has the same name"),
        (entry(name="x", key="other"), r"\('x'\): has the same key as 'first'"),
        (entry(name="x", hash=digest_of("other")), r"\('x'\): has the same key as 'first'"),
        (json.dumps([SECRET]).encode(), r"keys\[0\]: "),
        (json.dumps({"keys": SECRET}).encode(), "keys: must be a list"),
        (json.dumps({"keys": [], SECRET[:2]: 1}).encode(), "se: is unknown"),
        (b'[{"name": "x", "key": "%b"' % SECRET.encode(), "is not JSON: .*line 1"),
        (b"\xff" + SECRET.encode(), "is not text in UTF-8"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_errors_name_the_entry(data: bytes, said: str) -> None:
    with pytest.raises(BadKeyFile, match=said) as caught:
        key_file.parse(data, is_json=True)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f'[[keys]]\nname = "x"\nkey = "{SECRET}', "is not TOML: at "),
        (f'[[keys]]\nname = "x"\nkey = {SECRET}', "is not TOML: at line 3"),
        (f'[[keys]]\nkey = "a"\nkey = "{SECRET}"', "is not TOML: at "),
        ("a = " + "[" * 100_000, "is not TOML"),
        ("a = " + "9" * 5000, "is not TOML"),
        (f'[{SECRET[:2]}]\nname = "x"', "keys: must be a list"),
    ],
)
def test_errors_of_toml_say_where(text: str, said: str) -> None:
    with pytest.raises(BadKeyFile, match=said) as caught:
        key_file.parse(text.encode(), is_json=False)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes_are_bounded(tmp_path: Path) -> None:
    many = [{"name": f"k{n}", "hash": f"{n:064x}"} for n in range(key_file.MAX_KEYS + 1)]
    assert len(key_file.parse(json.dumps(many[1:]).encode(), is_json=True)) == key_file.MAX_KEYS
    with pytest.raises(BadKeyFile, match="more than 10000 entries"):
        key_file.parse(json.dumps(many).encode(), is_json=True)
    (tmp_path / "large").write_bytes(b"#" * (key_file.MAX_BYTES + 1))
    with pytest.raises(BadKeyFile, match="at most"):
        key_file.read(tmp_path / "large")


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path / "none", "cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
        (tmp_path / "pipe", "keys: must be a list"),  # nothing is in it, and nobody waits
    ):
        with pytest.raises(BadKeyFile, match=said):
            key_file.read(path)


def test_keys_of_the_command_line_must_differ() -> None:
    given = [unnamed_key("other"), unnamed_key("third", is_admin=True)]
    key_file.check_distinct(given, KEYS[:1])
    with pytest.raises(BadKeyFile, match=r"keys\[1\] \('ops'\): .*--api-key or --admin-key"):
        key_file.check_distinct(given, KEYS)


def test_the_last_good_keys_are_kept(tmp_path: Path) -> None:
    assert key_file.load_last_good(tmp_path) == ()
    key_file.save_last_good(tmp_path, KEYS)
    assert key_file.load_last_good(tmp_path) == KEYS
    (kept,) = tmp_path.iterdir()
    assert SECRET not in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0
    kept.write_text("[{")
    assert key_file.load_last_good(tmp_path) == ()
