"""A coordinator that dies while requests finish, and that the system will not start again."""

import contextlib
import itertools
import json
import resource
import shutil
import signal
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.end_to_end.servers import Launch, Server, wait_for


def stream(server: Server, max_tokens: int) -> Generator[str, None, None]:
    """The events of a completion."""
    request = {"prompt": "hello", "max_tokens": max_tokens, "ignore_eos": True, "stream": True}
    with server.client.stream("POST", "/v1/completions", json=request, timeout=60) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if line:
                yield line.removeprefix("data: ")


def text_of(events: list[str]) -> str:
    assert events[-1] == "[DONE]"
    return "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])


def let_start_nothing(server: Server) -> Callable[[], None]:
    """No descriptor is left to the launcher, and a child needs some. Returns what ends that."""
    launcher = psutil.Process(server.process.pid)
    before = launcher.rlimit(resource.RLIMIT_NOFILE)
    launcher.rlimit(resource.RLIMIT_NOFILE, (3, before[1]))

    def restore() -> None:
        launcher.rlimit(resource.RLIMIT_NOFILE, before)

    return restore


def end_without_coordinator(server: Server) -> Callable[[], None]:
    """SIGTERM, and then the coordinator's death. Returns what lets another be started."""
    let_start = let_start_nothing(server)
    server.process.send_signal(signal.SIGTERM)
    wait_for(lambda: "stopping" in server.log, "the signal is taken")
    server.children("headrace.coordinator.main")[0].kill()
    wait_for(lambda: "coordinator cannot be started" in server.log, "it is tried")
    return let_start


def test_it_is_tried_again_while_requests_finish(launch: Launch) -> None:
    """The request is as long as a busy machine may need, and given up when it has gone on."""
    pool = ("--frontends", "1", "--workers", "1")
    expected = text_of(list(stream(launch(*pool), 2000)))
    server = launch(*pool, step_s=0.02)
    read: list[str] = []
    is_enough = threading.Event()

    def read_on() -> None:
        with contextlib.closing(stream(server, 2000)) as events:
            read.extend(itertools.takewhile(lambda _: not is_enough.is_set(), events))

    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(read_on)
        try:
            wait_for(lambda: read, "it runs")
            let_start = end_without_coordinator(server)
            let_start()
            wait_for(lambda: server.children("headrace.coordinator.main"), "another coordinator")
            server.children("headrace.workers.main")[0].kill()  # which it replaces
            wait_for(lambda: server.log.count(" is ready (pid ") == 2, "another worker")
            before = len(read)
            wait_for(lambda: len(read) > before + 50, "the request continues")
        finally:
            is_enough.set()
        reading.result()
    assert expected.startswith(text_of([*read, "[DONE]"]))
    assert server.stop() == 0


def test_requests_that_need_none_are_finished(launch: Launch) -> None:
    server = launch("--frontends", "1", "--workers", "1", step_s=0.02)
    expected = text_of(list(stream(server, 150)))
    events = stream(server, 150)
    begun = [next(events)]
    end_without_coordinator(server)
    assert text_of(begun + list(events)) == expected
    assert server.stop() == 0


@pytest.mark.parametrize("needed", [True, False])
def test_it_is_given_up_with_the_time_to_finish_requests(launch: Launch, needed: bool) -> None:
    """Their clients get an error, all processes end, and the exit status says that it failed."""
    flags = ("--frontends", "1", "--workers", "1", "--shutdown-timeout", "3")
    server = launch(*flags, step_s=0.05)
    family = server.children()
    events = stream(server, 2000)
    begun = [next(events)]
    end_without_coordinator(server)
    if needed:
        server.children("headrace.workers.main")[0].kill()
    received = begun + list(events)
    assert received[-1] == "[DONE]"
    assert "error" in json.loads(received[-2])
    assert server.stop() == 1
    assert not any(process.is_running() for process in family)
    shutil.rmtree(server.run_dir)  # to look into it takes a descriptor, too


def test_coordinator_that_could_not_be_started_before_is_tried_for_the_requests(
    launch: Launch,
) -> None:
    server = launch("--frontends", "1", "--workers", "1", step_s=0.02)
    events = stream(server, 400)
    next(events)
    let_start = let_start_nothing(server)
    server.children("headrace.coordinator.main")[0].kill()
    wait_for(lambda: "coordinator cannot be started" in server.log, "it is tried")
    server.process.send_signal(signal.SIGTERM)
    let_start()
    wait_for(lambda: server.children("headrace.coordinator.main"), "it is tried soon")
    assert list(events)[-1] == "[DONE]"
    assert server.stop() == 0
