"""Options of the log and of browsers' access, through the whole server."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.servers import Launch, Server, wait_for

SITE = "https://app.example"
CHAT = "/v1/chat/completions"
MIDDLEWARE = """
async def team(request, call_next):
    response = await call_next(request)
    response.headers["X-Team"] = "blue"
    return response


class Marked:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def change(message):
            if message["type"] == "http.response.body":
                body = message.get("body", b"").replace(b"data:", b": seen\\n\\ndata:")
                message = {**message, "body": body}
            await send(message)

        await self.app(scope, receive, change)


def wrong(request, call_next):
    pass
"""
HOSTILE = "\r\nINFO     false record \x1b[31m\x9b31m\u2028"


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of the operator's modules, on the path of Python."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "operators_code.py").write_text(MIDDLEWARE)
    (folder / "operators_wrong.py").write_text("raise RuntimeError('no such\\nservice')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=":")
        yield folder


@pytest.fixture(scope="module")
def server(launch: Launch, modules: Path) -> Server:
    """A pool that logs in JSON, all that it can, with CORS and middleware."""
    return launch(
        *("--log-format", "json", "--access-log", "--no-access-log-for", "/health,/metrics"),
        *("--log-responses", "--log-error-stack", "--enable-log-requests", "--enable-log-outputs"),
        *("--allowed-origins", json.dumps([SITE]), "--allowed-methods", '["GET", "POST"]'),
        *("--allowed-headers", '["content-type", "authorization"]', "--allow-credentials"),
        *("--middleware", "operators_code.team", "--middleware=operators_code.Marked"),
        *("--enable-request-id-headers", "--enable-offline-docs", "--enable-server-load-tracking"),
        *("--uvicorn-log-level", "info", "--response-store-url"),
        "sqlite:////nowhere/db?password=s3cret-word",
    )


def objects(server: Server) -> list[dict[str, Any]]:
    """All records; the last line may be incomplete."""
    return [json.loads(line) for line in server.log.split("\n")[:-1]]


def having(server: Server, logger: str, request_id: str) -> list[dict[str, Any]]:
    return [
        each
        for each in objects(server)
        if each["logger"] == logger and each.get("request_id") == request_id
    ]


def test_every_line_of_every_process_is_an_object(server: Server) -> None:
    found = objects(server)
    processes = {each["process"].partition("-")[0] for each in found}
    assert {"launcher", "coordinator", "frontend"} <= processes | {"coordinator"}
    for each in found:
        assert {"time", "level", "process", "pid", "logger", "message"} <= each.keys()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", each["time"])
    loud = [each["message"] for each in found if each["level"] == "WARNING"]
    assert any(line.startswith("--log-responses: ") for line in loud)
    assert any(line.startswith("--enable-log-requests: ") for line in loud)


def test_request_can_be_followed_by_its_id(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    headers = {"X-Request-Id": "follow-me", "Authorization": "Bearer s3cret-word"}
    answer = server.client.post(f"{CHAT}?api_key=s3cret-word", json=body, headers=headers)
    assert answer.headers["x-request-id"] == "follow-me"
    assert answer.headers["x-team"] == "blue"
    wait_for(lambda: having(server, "headrace.access", "follow-me"), "the line")
    (access,) = having(server, "headrace.access", "follow-me")
    assert (access["method"], access["path"], access["status"]) == ("POST", CHAT, 200)
    assert access["bytes"] == len(answer.content)
    assert access["client"].startswith("127.0.0.1:")
    assert access["duration_s"] > 0
    (logged,) = having(server, "headrace.responses", "follow-me")
    assert json.dumps(answer.json()["choices"][0]["message"]["content"])[1:-1] in logged["message"]
    prompts = [each for each in objects(server) if "received follow-me" in each["message"]]
    assert len(prompts) == 1
    assert "s3cret-word" not in server.log


def test_stream_is_one_line_and_passes_the_middleware(server: Server) -> None:
    body = {"prompt": "hello", "max_tokens": 20, "ignore_eos": True, "stream": True}
    headers = {"X-Request-Id": "streamed"}
    with server.client.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert lines[::2] == [": seen"] * (len(lines) // 2), "the middleware sees every event"
    text = "".join(
        choice["text"]
        for line in lines[1:-1:2]
        for choice in json.loads(line.removeprefix("data: "))["choices"]
    )
    wait_for(lambda: having(server, "headrace.access", "streamed"), "the line")
    (logged,) = having(server, "headrace.responses", "streamed")
    assert repr(text) in logged["message"]
    (access,) = having(server, "headrace.access", "streamed")
    assert access["bytes"] == sum(len(line.encode()) + 2 for line in lines)


def test_browsers_of_the_site_may_ask(server: Server) -> None:
    preflight = {
        "Origin": SITE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    answer = server.client.options(CHAT, headers=preflight)
    assert (answer.status_code, answer.text) == (200, "OK")
    assert answer.headers["access-control-allow-origin"] == SITE
    assert answer.headers["access-control-allow-credentials"] == "true"
    for path, status in (("/v1/models", 200), ("/nope", 404)):
        answer = server.client.get(path, headers={"Origin": SITE})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == SITE
        other = server.client.get(path, headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


def test_quiet_paths_have_no_line(server: Server) -> None:
    for path in ("/health", "/health?verbose", "/metrics", "/livez"):
        server.get(path)
    wait_for(lambda: "/livez" in server.log, "the line of the other")
    paths = {each["path"] for each in objects(server) if each["logger"] == "headrace.access"}
    assert "/livez" in paths
    assert not paths & {"/health", "/metrics"}


def test_traceback_of_an_error_answer_is_logged(server: Server) -> None:
    answer = server.client.post(CHAT, content=b"{bad", headers={"X-Request-Id": "bad"})
    assert answer.status_code == 400
    wait_for(lambda: having(server, "headrace.error_stacks", "bad"), "its traceback")
    (found,) = having(server, "headrace.error_stacks", "bad")
    assert "Traceback" in found["exception"]
    assert "Traceback" not in answer.text


def test_text_of_clients_makes_no_record(server: Server) -> None:
    before = len(objects(server))
    body = {"messages": [{"role": HOSTILE, "content": HOSTILE}], HOSTILE: HOSTILE, "model": HOSTILE}
    server.client.post(CHAT, json=body)
    raw = b"GET /\x9b31m%0d%0aINFO HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\x1b[31mb\r\n\r\n"
    with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port or 0)) as connection:
        connection.sendall(raw)
        connection.settimeout(5)
        connection.recv(1000)
    server.client.post("/v1/completions", json={"prompt": HOSTILE, "max_tokens": 2})
    wait_for(lambda: len(objects(server)) > before + 3, "their records")
    assert all(line.isprintable() for line in server.log.split("\n"))


def test_text_format_and_an_operators_configuration(launch: Launch, tmp_path: Path) -> None:
    configuration = tmp_path / "log.toml"
    configuration.write_text(
        f"""
        version = 1
        [formatters.mine]
        format = "mine|%(processName)s|%(request_id)s|%(message)s"
        [handlers.file]
        class = "logging.FileHandler"
        filename = "{tmp_path}/pool.log"
        formatter = "mine"
        [root]
        level = "INFO"
        handlers = ["file"]
        """
    )
    server = launch(
        "--log-config-file", str(configuration), "--disable-access-log-for-endpoints", "/livez"
    )
    body = {"prompt": HOSTILE, "max_tokens": 2, "unknown": 1}
    server.client.post("/v1/completions", json=body, headers={"X-Request-Id": "r1"})
    log = tmp_path / "pool.log"
    wait_for(lambda: "|r1|127.0.0.1" in log.read_text(), "the access log's line")
    server.stop()
    lines = log.read_text().split("\n")[:-1]
    assert all(line.startswith("mine|") and line.isprintable() for line in lines)
    processes = {line.split("|")[1].partition("-")[0] for line in lines}
    assert {"launcher", "frontend"} <= processes
    assert not re.search(r"(INFO|WARNING) +(frontend|coordinator)", server.log)


def test_repeated_starts_do_not_read_the_file_again(launch: Launch, tmp_path: Path) -> None:
    configuration = tmp_path / "log.json"
    configuration.write_text('{"loggers": {"headrace": {"level": "WARNING"}}}')
    server = launch("--log-config-file", str(configuration), "--frontends", "1")
    configuration.write_text("{broken")
    (frontend,) = server.children("headrace.frontend.main")
    frontend.kill()
    wait_for(
        lambda: (
            [each.pid for each in server.children("headrace.frontend.main")]
            not in ([], [frontend.pid])
        ),
        "a successor",
    )
    wait_for(lambda: _is_served(server), "an answer of the successor")
    assert "INFO    frontend" not in server.log


def _is_served(server: Server) -> bool:
    try:
        return server.get("/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--middleware", "operators_code.missing"), "operators_code has no missing"),
        (("--middleware", "operators_code.wrong"), "must be a class or an async function"),
        (("--middleware", "operators_wrong.x"), "cannot be imported (RuntimeError: no such"),
        (("--middleware", "nodots"), "must be an import path"),
        (("--log-config-file", "/nowhere/x.json"), "cannot read /nowhere/x.json: No such file"),
        (("--log-format", "xml"), "must be 'text' or 'json'"),
        (("--allowed-origins", '["app.example"]'), "must be origins"),
        (("--allowed-origins", "[1"), "must be a JSON list"),
        (("--no-access-log-for", "health"), "must be paths that begin with /"),
        (("--uvicorn-log-level", "loud"), "must be 'debug', 'info'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_value_ends_the_start_with_one_line(
    launch: Launch, modules: Path, flags: tuple[str, ...], said: str
) -> None:
    with pytest.raises(AssertionError) as caught:
        launch(*flags)
    _, _, log = str(caught.value).partition("did not come up:\n")
    lines = [line for line in log.splitlines() if line.startswith("headrace: error: ")]
    assert len(lines) == 1
    assert lines[0].startswith(f"headrace: error: {flags[0]}")
    assert said in lines[0]
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.json", "{bad"),
        ("x.toml", "= 1"),
        ("x.yaml", "a: [\nb"),
        ("x.json", "[1]"),
        ("x.json", '{"handlers": {"a": {"class": "no.such.Handler"}}}'),
        ("x.json", '{"version": 2}'),
    ],
)
def test_bad_log_configuration_ends_the_start_with_one_line(
    launch: Launch, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(AssertionError) as caught:
        launch("--log-config-file", str(tmp_path / name))
    _, _, log = str(caught.value).partition("did not come up:\n")
    *others, line = log.splitlines()
    assert line.startswith("headrace: error: --log-config-file: ")
    assert not others


def test_error_of_the_start_is_json_as_well(launch: Launch) -> None:
    with pytest.raises(AssertionError) as caught:
        launch("--log-format", "json", "--max-num-seqs", "0")
    _, _, log = str(caught.value).partition("did not come up:\n")
    found = [json.loads(line) for line in log.splitlines()]
    assert found[-1]["level"] == "CRITICAL"
    assert found[-1]["message"].startswith("--max-num-seqs: must be at least 1")
