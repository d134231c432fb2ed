"""Taking the socket that systemd passes (LISTEN_FDS)."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.launcher.command.activation import check_address, passed_socket, url_of
from headrace.launcher.command.options import OptionError
from headrace.protocol.config import PoolOptions


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def environment(**values: str) -> dict[str, str]:
    passed = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "headrace"}
    return passed | values


def test_takes_the_socket_and_leaves_no_trace_for_children(listener: socket.socket) -> None:
    variables = environment(OTHER="stays")
    taken = passed_socket(variables, os.dup(listener.fileno()))
    assert taken is not None
    assert variables == {"OTHER": "stays"}
    assert taken.getsockname() == listener.getsockname()
    assert not taken.get_inheritable()
    assert url_of(taken) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    taken.close()


@pytest.mark.parametrize(
    "values", [{"LISTEN_PID": "1"}, {"LISTEN_PID": ""}, {"LISTEN_FDS": "0"}, {"LISTEN_FDS": ""}]
)
def test_none_was_passed_to_us(listener: socket.socket, values: dict[str, str]) -> None:
    assert passed_socket(environment(**values), listener.fileno()) is None
    assert passed_socket({}, listener.fileno()) is None


@pytest.mark.parametrize("count", ["2", "many", "-1"])
def test_other_than_one_socket_is_refused(listener: socket.socket, count: str) -> None:
    with pytest.raises(OptionError, match=r"LISTEN_FDS: .*ListenStream="):
        passed_socket(environment(LISTEN_FDS=count), listener.fileno())


def test_what_cannot_be_served_on_is_refused(tmp_path: Path) -> None:
    closed = os.open(tmp_path, os.O_RDONLY)
    os.close(closed)
    with (
        (tmp_path / "file").open("w") as file,
        socket.socket() as deaf,
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
    ):
        for fd in (file.fileno(), deaf.fileno(), datagrams.fileno(), closed):
            with pytest.raises(OptionError, match="not a listening stream socket"):
                passed_socket(environment(), fd)


def test_urls(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "x"))
        assert url_of(listener) == f"unix:{tmp_path / 'x'}"
    with socket.socket(socket.AF_INET6) as listener:
        listener.bind(("::1", 0))
        assert url_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"


@pytest.mark.parametrize("values", [{"host": "0.0.0.0"}, {"port": 8000}, {"uds": "/x"}])
def test_address_is_the_socket_units_to_say(values: dict[str, object]) -> None:
    check_address(PoolOptions(frontends=3))
    with pytest.raises(OptionError, match=f"--{next(iter(values))}: .*ListenStream="):
        check_address(PoolOptions.model_validate(values))
