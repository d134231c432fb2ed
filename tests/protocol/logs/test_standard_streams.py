"""A process that logs lives on, wherever its standard error leads."""

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace.protocol.logs.standard_streams import MAX_KEPT_BYTES
from tests.small_file_systems import fill, small_tmpfs

# Logs many lines, says so on a socket, waits until it is told to go on, and logs two more.
PROGRAM = """
import logging, socket, sys
from headrace.protocol.log_options import LogOptions
from headrace.protocol.logs.standard_streams import make_streams_safe
from headrace.protocol.logs.set_up import set_up_logging
control = socket.socket(fileno=int(sys.argv[1]))
make_streams_safe()
set_up_logging("chat-0.1", LogOptions(log_level="info"))
for number in range(int(sys.argv[2])):
    logging.getLogger("headrace").info("line %d %s", number, "x" * 1000)
print("printed", file=sys.stderr)
control.send(b"logged")
control.recv(10)
for _ in range(2):
    logging.getLogger("headrace").info("the end")
"""
LINES = 3 * MAX_KEPT_BYTES // 1000
LOST = "lines of this process's log were lost"


@contextmanager
def logging_to(stderr: int) -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    """A process that logs to a descriptor of this one."""
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    command = [sys.executable, "-c", PROGRAM, str(theirs.fileno()), str(LINES)]
    with ours, subprocess.Popen(command, stderr=stderr, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        yield ours, process
        process.wait(60)


def pair(kind: str) -> tuple[int, int]:
    """Something that is read at one end and written at the other."""
    if kind == "pipe":
        return os.pipe()
    if kind == "terminal":
        return os.openpty()
    first, second = socket.socketpair()
    return first.detach(), second.detach()


def read_until_closed(descriptor: int) -> list[str]:
    text = b""
    try:
        while piece := os.read(descriptor, 1 << 16):
            text += piece
    except OSError:  # a terminal whose other end has been closed
        pass
    return text.decode().replace("\r", "").splitlines()


@pytest.mark.parametrize("kind", ["pipe", "socket", "terminal"])
def test_a_reader_that_does_not_read_for_a_while(kind: str) -> None:
    reader, writer = pair(kind)
    with logging_to(writer) as (control, process):
        os.close(writer)
        assert control.recv(10) == b"logged", "it does not wait for the reader"
        control.send(b"go on")
        lines = read_until_closed(reader)
    os.close(reader)
    assert process.returncode == 0
    assert len(lines) > MAX_KEPT_BYTES // 1100
    assert " line 0 x" in lines[0]
    (told,) = (line for line in lines if LOST in line)
    lost = int(told.split(LOST)[0].split()[-1])
    assert len(lines) - 1 + lost == LINES + 3, "each line is there or counted"


@pytest.mark.parametrize("kind", ["pipe", "socket", "terminal"])
def test_a_reader_that_reads_gets_all_lines_in_order(kind: str) -> None:
    reader, writer = pair(kind)
    with logging_to(writer) as (control, process):
        os.close(writer)
        control.send(b"go on")
        lines = read_until_closed(reader)
    os.close(reader)
    assert process.returncode == 0
    assert len(lines) == LINES + 3
    assert [line.split()[4] for line in lines[:LINES]] == [str(each) for each in range(LINES)]


@pytest.mark.parametrize("kind", ["pipe", "socket", "terminal"])
def test_a_reader_that_has_gone(kind: str) -> None:
    reader, writer = pair(kind)
    with logging_to(writer) as (control, process):
        os.close(writer)
        os.close(reader)
        assert control.recv(10) == b"logged"
        control.send(b"go on")
    assert process.returncode == 0


def test_long_lines_of_several_processes_are_not_mixed() -> None:
    """Which share one pipe: it takes lines of more than 4,096 bytes in pieces."""
    reading, writing = os.pipe()
    script = (
        "import sys\n"
        "from headrace.protocol.logs.standard_streams import make_streams_safe\n"
        "make_streams_safe()\n"
        "for _ in range(200): sys.stderr.write(sys.argv[1] * 20_000 + '\\n')\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, letter], stderr=writing) for letter in "ab"
    ]
    os.close(writing)
    lines = read_until_closed(reading)
    assert [process.wait(60) for process in processes] == [0, 0]
    assert sorted(lines) == ["a" * 20_000] * 200 + ["b" * 20_000] * 200


def test_a_process_that_keeps_its_turn_keeps_no_other_from_writing() -> None:
    reading, writing = os.pipe()
    fcntl.lockf(writing, fcntl.LOCK_EX)  # this process's, until the other has ended
    script = (
        "import sys\n"
        "from headrace.protocol.logs.standard_streams import make_streams_safe\n"
        "make_streams_safe()\n"
        "for number in range(500): print(number, file=sys.stderr)\n"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], stderr=writing, timeout=60).returncode == 0
    )
    os.close(writing)
    assert read_until_closed(reading) == [str(number) for number in range(500)]


def test_a_reader_that_never_reads() -> None:
    reader, writer = pair("pipe")
    with logging_to(writer) as (control, process):
        assert control.recv(10) == b"logged"
        control.send(b"go on")
        assert process.wait(10) == 0
    os.close(reader)
    os.close(writer)


def test_a_full_disk(tmp_path: Path) -> None:
    with small_tmpfs(tmp_path / "small", 1 << 18) as folder:
        filler = fill(folder)
        with (folder / "log").open("wb") as file, logging_to(file.fileno()) as (control, process):
            assert control.recv(10) == b"logged"
            filler.unlink()
            control.send(b"go on")
        lines = (folder / "log").read_text().splitlines()
    assert process.returncode == 0
    assert lines[0].endswith("the end")
    assert lines[1].endswith(f"{LINES + 1} {LOST}")
    assert lines[2].endswith("the end")


def test_a_disk_that_fills_up_within_a_line(tmp_path: Path) -> None:
    with small_tmpfs(tmp_path / "small", 1 << 18) as folder:
        fill(folder, "most").open("r+b").close()
        os.truncate(folder / "most", (1 << 18) - 3 * 4096)
        with (folder / "log").open("wb") as file, logging_to(file.fileno()) as (control, process):
            assert control.recv(10) == b"logged"
            (folder / "most").unlink()
            control.send(b"go on")
        lines = (folder / "log").read_text().splitlines()
    assert process.returncode == 0
    whole = [line for line in lines if line.endswith("x" * 1000)]
    assert len(lines) == len(whole) + 4, "a torn one, two, and the count"
    assert [line.split()[3] for line in lines[-3:]] == ["the", lines[-2].split()[3], "the"]
    assert LOST in lines[-2]


@pytest.mark.parametrize("closed", ["2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_lead_nowhere_and_no_other_file_gets_their_number(
    tmp_path: Path, closed: str
) -> None:
    script = (
        "import os, sys\n"
        "from headrace.protocol.logs.standard_streams import make_streams_safe\n"
        "make_streams_safe()\n"
        f"file = open({str(tmp_path / 'file')!r}, 'w')\n"
        "assert file.fileno() > 2\n"
        "print('printed'); print('said', file=sys.stderr)\n"
        "os.write(2, b'from a library')\n"
    )
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", script]
    assert subprocess.run(shell, check=False).returncode == 0
    assert (tmp_path / "file").read_bytes() == b""
