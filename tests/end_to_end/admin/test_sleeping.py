"""Sleep and wake over real processes: whichever frontend takes the call, it is true of all."""

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from tests.end_to_end.servers import Launch, Server, wait_for

PROMPT = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    return launch("--workers", "2", "--frontends", "3", "--enable-admin", step_s=0.005)


@pytest.fixture(autouse=True)
def awake(server: Server) -> Iterator[None]:
    yield
    post(server, "/wake_up")
    # Metrics are a heartbeat old: the next test is not to take these requests for its own.
    wait_for(lambda: server.metric("headrace:num_requests_running") == 0, "nothing to run")


def post(server: Server, path: str, status: int = 200) -> httpx.Response:
    """On a connection of its own, which any frontend may have."""
    with server.new_client() as client:
        answer = client.post(path)
    assert answer.status_code == status, answer.text
    return answer


def ask(server: Server, tokens: int = 8) -> str:
    body = {"prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["choices"][0]["text"]
    return found


def seen(server: Server, path: str = "/is_sleeping") -> list[bool]:
    """What every frontend says, of which each takes the connections that the others have not."""
    clients = [server.new_client() for _ in range(3)]
    try:
        return [client.get(path).json()["is_sleeping"] for client in clients]
    finally:
        for client in clients:
            client.close()


def states(server: Server) -> list[str]:
    workers = server.get("/is_sleeping?verbose").json()["workers"]
    return [worker["state"] for worker in workers]


@pytest.mark.parametrize("level", [1, 2])
def test_all_workers_sleep_and_wake_as_every_frontend_sees(server: Server, level: int) -> None:
    text = ask(server)
    for _ in range(2):  # the second time changes nothing
        post(server, f"/sleep?level={level}")
        assert seen(server) == [True] * 3
    assert server.get("/health").status_code == 200  # requests would wake it
    for _ in range(2):
        post(server, "/wake_up")
        assert seen(server) == [False] * 3
    assert ask(server) == text


def test_a_request_wakes_one_worker_and_is_answered(server: Server) -> None:
    text = ask(server)
    post(server, "/sleep?level=2")
    with ThreadPoolExecutor(9) as threads:
        assert list(threads.map(lambda _: ask(server), range(9))) == [text] * 9
    assert sorted(states(server)) == ["asleep", "ready"]


@pytest.mark.parametrize("path", ["/health", "/health?verbose", "/metrics", "/load", "/v1/models"])
def test_questions_wake_nobody(server: Server, path: str) -> None:
    post(server, "/sleep")
    assert server.get(path).status_code == 200
    body = {"prompt": "some text"}
    assert httpx.post(f"{server.url}/tokenize", json=body).status_code == 200
    time.sleep(0.3)
    assert states(server) == ["asleep", "asleep"]


def test_what_was_given_back_comes_back_step_by_step(server: Server) -> None:
    for first, second in (("weights", "kv_cache"), ("kv_cache", "weights")):
        post(server, "/sleep?level=2")
        for _ in range(2):
            post(server, f"/wake_up?tags={first}")
            assert states(server) == ["asleep", "asleep"]
        post(server, f"/wake_up?tags={second}")
        assert states(server) == ["ready", "ready"]
    post(server, "/sleep")
    post(server, "/wake_up?tags=weights&tags=kv_cache")
    assert states(server) == ["ready", "ready"]


def test_one_worker_or_one_model(server: Server) -> None:
    model = server.get("/v1/models").json()["data"][0]["id"]
    post(server, "/sleep?worker=default-1")
    body = server.get("/is_sleeping?verbose").json()
    assert body["is_sleeping"] is False
    assert [each["state"] for each in body["workers"]] == ["ready", "asleep"]
    assert server.get("/is_sleeping?worker=default-1").json() == {"is_sleeping": True}
    report = post(server, f"/wake_up?verbose&model={model}").json()["workers"]
    assert [each["name"].partition(".")[0] for each in report] == ["default-0", "default-1"]
    assert [(each["error"], each["value"]["state"]) for each in report] == [("", "ready")] * 2


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("level=3", 400, "level"),
        ("level=x", 400, "level"),
        ("mode=kill", 400, "mode"),
        ("timeout=-1", 400, "timeout"),
        ("timeout=nan", 400, "timeout"),
        ("model=nobody", 404, "nobody"),
        ("worker=nobody", 404, "no such worker"),
    ],
)
def test_what_cannot_be_is_told(server: Server, query: str, status: int, said: str) -> None:
    answer = post(server, f"/sleep?{query}", status)
    assert said in answer.json()["error"]["message"]
    assert states(server) == ["ready", "ready"]
    assert post(server, "/wake_up?tags=nothing", 400)


def test_work_in_flight_is_finished(server: Server) -> None:
    text = ask(server, 200)
    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(ask, server, 200) for _ in range(4)]
        wait_for(lambda: server.metric("headrace:num_requests_running") == 4, "running")
        post(server, "/sleep?mode=wait")
        assert states(server) == ["asleep", "asleep"]
        assert [each.result() for each in running] == [text] * 4


def test_work_in_flight_goes_on_in_a_worker_that_stays_awake(server: Server) -> None:
    text = ask(server, 1500)
    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(ask, server, 1500) for _ in range(4)]
        wait_for(lambda: server.metric("headrace:num_requests_running") == 4, "running")
        post(server, "/sleep?mode=drain&worker=default-0")
        assert not any(each.done() for each in running)
        assert [each.result() for each in running] == [text] * 4


def test_work_in_flight_is_aborted_and_told_so(server: Server) -> None:
    body = {"prompt": PROMPT, "max_tokens": 1000, "ignore_eos": True}
    url = f"{server.url}/v1/completions"

    def stream() -> list[str]:
        with httpx.stream("POST", url, json=body | {"stream": True}, timeout=60) as answer:
            return [line for line in answer.iter_lines() if line]

    with ThreadPoolExecutor(2) as threads:
        whole = threads.submit(httpx.post, url, json=body, timeout=60)
        streamed = threads.submit(stream)
        wait_for(lambda: server.metric("headrace:num_requests_running") == 2, "running")
        post(server, "/sleep?mode=abort")
        assert whole.result().status_code == 503
        lines = streamed.result()
    assert lines[-1] == "data: [DONE]"
    assert sum('"error"' in line for line in lines) == 1
    assert states(server) == ["asleep", "asleep"]


def test_a_worker_with_too_much_work_stays_awake(server: Server) -> None:
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(ask, server, 1500)
        wait_for(lambda: server.metric("headrace:num_requests_running") == 1, "running")
        answer = post(server, "/sleep?mode=wait&timeout=0.1", 500)
        assert "1 requests were still running" in answer.json()["error"]["message"]
        running.result()
    assert sorted(states(server)) == ["asleep", "ready"]


def test_fifty_cycles_under_traffic_fail_no_request(server: Server) -> None:
    text, over = ask(server), threading.Event()

    def user() -> int:
        count = 0
        while not over.is_set():
            assert ask(server) == text
            count += 1
        return count

    with ThreadPoolExecutor(4) as threads:
        users = [threads.submit(user) for _ in range(4)]
        try:
            for cycle in range(50):
                mode = ("drain", "wait")[cycle % 2]
                post(server, f"/sleep?level={1 + cycle % 2}&mode={mode}")
                post(server, "/wake_up")
        finally:
            over.set()
        assert sum(each.result() for each in users) > 50


def test_a_worker_that_dies_asleep_comes_back_and_sleeps(server: Server) -> None:
    post(server, "/sleep")
    victim = server.children("headrace.workers.main")[0]
    victim.send_signal(signal.SIGKILL)
    wait_for(lambda: victim.pid not in [each.pid for each in workers(server)], "gone")
    wait_for(lambda: states(server) == ["asleep", "asleep"], "both asleep again")
    assert ask(server)


def workers(server: Server) -> list[psutil.Process]:
    return server.children("headrace.workers.main")


def test_a_coordinator_that_dies_forgets_no_call(server: Server) -> None:
    text = ask(server, 1500)
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(ask, server, 1500)
        wait_for(lambda: server.metric("headrace:num_requests_running") == 1, "running")
        sleep = threads.submit(post, server, "/sleep?mode=wait")
        wait_for(lambda: "falling_asleep" in states(server), "falling asleep")
        server.children("headrace.coordinator.main")[0].kill()
        assert running.result() == text
        sleep.result()
    assert seen(server) == [True] * 3


def test_idle_workers_sleep_by_themselves_and_wake_on_demand(launch: Launch) -> None:
    pool = ["--workers", "2", "--sleep-idle-seconds", "0.5", "--sleep-idle-level", "2"]
    server = launch("--frontends", "2", "--enable-admin", *pool)
    text = ask(server)
    for _ in range(3):
        wait_for(lambda: states(server) == ["asleep", "asleep"], "asleep")
        assert ask(server) == text


def test_much_work_wakes_more_than_one(launch: Launch) -> None:
    pool = ["--workers", "3", "--max-num-seqs", "4", "--sleep-idle-seconds", "0.5"]
    server = launch("--enable-admin", *pool, step_s=0.01)
    wait_for(lambda: states(server) == ["asleep"] * 3, "asleep")
    over = threading.Event()

    def user() -> None:
        while not over.is_set():
            ask(server, 100)

    with ThreadPoolExecutor(12) as threads:
        users = [threads.submit(user) for _ in range(12)]
        try:
            wait_for(lambda: states(server) == ["ready"] * 3, "all are awake", 60)
        finally:
            over.set()
        for each in users:
            each.result()


def test_without_wake_on_demand_requests_are_refused(launch: Launch) -> None:
    server = launch("--enable-admin", "--no-wake-on-demand")
    post(server, "/sleep")
    assert server.get("/health").status_code == 503
    body = {"prompt": PROMPT, "max_tokens": 4}
    answer = httpx.post(f"{server.url}/v1/completions", json=body)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0


def test_the_routes_are_the_operators_choice(launch: Launch) -> None:
    server = launch()
    for path in ("/sleep", "/wake_up"):
        post(server, path, 404)
    assert server.get("/is_sleeping").status_code == 404
