"""A server that others can reach has keys, or an operator who says otherwise."""

import logging
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace.launcher.access.start_checks import check_exposure, is_local
from headrace.launcher.command import units
from headrace.launcher.command.option_errors import OptionError
from headrace.launcher.command.options import read_options
from headrace.protocol.access_options import AccessOptions
from headrace.protocol.config import GroupConfig, PoolConfig

ENTRY = '[[keys]]\nname = "a"\nkey = "secret-of-a"\n'


@contextmanager
def bound(family: socket.AddressFamily, address: str) -> Iterator[socket.socket]:
    """A socket on which nobody listens."""
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address if family == socket.AF_UNIX else (address, 0))
        yield listener


LOCAL = [
    (socket.AF_INET, "127.0.0.1"),
    (socket.AF_INET, "127.9.9.9"),
    (socket.AF_INET, "localhost"),
    (socket.AF_INET6, "::1"),
    (socket.AF_INET6, "::ffff:127.0.0.1"),
]
OTHERS = [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET, ""), (socket.AF_INET6, "::")]


@pytest.mark.parametrize(("family", "address"), LOCAL)
def test_local_addresses_need_no_key(family: socket.AddressFamily, address: str) -> None:
    with bound(family, address) as listener:
        assert is_local(listener)
        check_exposure(AccessOptions(), listener)


def test_a_unix_socket_is_local(tmp_path: Path) -> None:
    with bound(socket.AF_UNIX, str(tmp_path / "s")) as listener:
        check_exposure(AccessOptions(), listener)


@pytest.mark.parametrize(("family", "address"), OTHERS)
def test_others_need_a_key(family: socket.AddressFamily, address: str) -> None:
    with bound(family, address) as listener, bound(socket.AF_INET, "127.0.0.1") as local:
        for listeners in ((listener,), (local, listener)):
            with pytest.raises(OptionError, match=r"^--host: .*no key.*--insecure") as caught:
                check_exposure(AccessOptions(), *listeners)
            assert "\n" not in str(caught.value)
        for values in ({"api_keys": ["a"]}, {"admin_keys": ["a"]}, {"api_key_file": "x"}):
            check_exposure(AccessOptions.model_validate(values), listener)


@pytest.mark.parametrize(("family", "address"), OTHERS)
def test_a_socket_of_systemd_needs_a_key_too(
    family: socket.AddressFamily, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unit that gets the socket checks it: `prepare` does not know it."""
    group = GroupConfig(
        name="g", model="m", model_path=tmp_path, text_path=tmp_path, served_names=("m",)
    )
    PoolConfig(run_dir=tmp_path, groups=(group,)).save()
    with bound(family, address) as listener:
        monkeypatch.setattr(units, "passed_socket", lambda: listener)
        with pytest.raises(OptionError, match="there is no key"):
            units.become("frontend", ["0", "--run-dir", str(tmp_path)])


def test_insecure_is_said_loudly(caplog: pytest.LogCaptureFixture) -> None:
    with bound(socket.AF_INET, "0.0.0.0") as listener, caplog.at_level(logging.WARNING):
        check_exposure(AccessOptions(insecure=True, enable_admin=True), listener)
        check_exposure(AccessOptions(insecure=True), listener)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("INSECURE: every machine that reaches 0.0.0.0 may use this server, and")
    assert "--enable-admin" in first
    assert "--enable-admin" not in second


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "--host: other machines can reach 0.0.0.0"),
        (["--host", "::ffff:0.0.0.0", "--enable-admin"], "--host: "),
        (["--api-key-file", "none.toml"], "--api-key-file: "),
    ],
)
def test_the_start_ends_with_one_line(words: list[str], said: str) -> None:
    command = [sys.executable, "-P", "-m", "headrace", "serve", "--engine", "fake", "--port", "0"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
    done = subprocess.run(
        [*command, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert line.startswith(f"headrace: error: {said}")
    assert done.stdout == ""


def test_a_bad_file_ends_the_start_with_its_entry(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    for text, said in (
        (ENTRY + '[[keys]]\nname = "b"\n', r"keys\[1\] \('b'\): needs either key or hash"),
        (ENTRY + ENTRY.replace('"a"', '"c"'), r"keys\[1\] \('c'\): has the same key as 'a'"),
        ("", "keys: must be a list"),
    ):
        file.write_text(text)
        with pytest.raises(OptionError, match=rf"^--api-key-file: .*: {said}") as caught:
            read_options(["--api-key-file", str(file)], {})
        assert "secret-of-a" not in str(caught.value)
    with pytest.raises(OptionError, match=r"^--api-key-file: .*: cannot be read"):
        read_options(["--api-key-file", ""], {})
    file.write_text(ENTRY)
    with pytest.raises(OptionError, match=r"keys\[0\] \('a'\): .* --api-key"):
        read_options(["--api-key-file", str(file), "--api-key", "secret-of-a"], {})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], []),
        (["--insecure"], []),
        (["--api-key", "a", "--enable-admin"], ["--enable-admin: no key opens"]),
        (["--api-key", "a", "--enable-admin", "--admin-key", "b"], []),
        (["--admin-key", "b"], ["--enable-admin is not given"]),
        (["--api-key", "a", "--insecure"], ["--insecure changes nothing"]),
        (["--api-key-file", "FILE", "--enable-admin"], ["no key opens"]),
    ],
)
def test_what_an_operator_may_have_missed_is_said(
    tmp_path: Path, words: list[str], said: list[str]
) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(ENTRY)
    file.chmod(0o640)
    notices = read_options([word.replace("FILE", str(file)) for word in words], {}).notices
    assert len(notices) == len(said)
    for notice, text in zip(notices, said, strict=True):
        assert text in notice


def test_a_file_that_all_can_read_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(ENTRY)
    file.chmod(0o644)
    assert file.stat().st_mode & stat.S_IROTH
    (notice,) = read_options(["--api-key-file", str(file)], {}).notices
    assert notice.startswith("--api-key-file: every user of this machine can read")
