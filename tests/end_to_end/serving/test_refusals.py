"""Bad input against real processes: always a 4xx of the contract's shape, and nobody dies."""

import json
from typing import Any

import pytest

from tests.end_to_end.servers import Server

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture
def server(fake_pool: Server) -> Server:
    return fake_pool


def chat(**fields: Any) -> tuple[str, str]:
    return CHAT, json.dumps({"model": "fake", "messages": MESSAGES, **fields})


def text(**fields: Any) -> tuple[str, str]:
    return TEXT, json.dumps({"model": "fake", "prompt": "hello", **fields})


# name: ((path, body), status, param that is named)
CASES: dict[str, tuple[tuple[str, str], int, str | None]] = {
    "malformed JSON": ((CHAT, "{bad"), 400, "body.1"),
    "no body": ((CHAT, ""), 400, None),
    "no object": ((CHAT, "[]"), 400, None),
    "deep nesting": ((CHAT, "[" * 100_000), 400, None),
    "unknown model": (chat(model="nope"), 404, "model"),
    "no messages": ((CHAT, '{"model": "fake"}'), 400, "body.messages"),
    "empty messages": (chat(messages=[]), 400, None),
    "image": (
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
        400,
        None,
    ),
    "unsupported field": (chat(watermarking=True), 400, "watermarking"),
    "suffix": (text(suffix="x"), 400, "suffix"),
    "temperature below 0": (chat(temperature=-1), 400, "temperature"),
    "temperature NaN": ((CHAT, chat()[1][:-1] + ', "temperature": NaN}'), 400, "temperature"),
    "temperature Infinity": (
        (CHAT, chat()[1][:-1] + ', "temperature": Infinity}'),
        400,
        "temperature",
    ),
    "temperature 1e999": ((CHAT, chat()[1][:-1] + ', "temperature": 1e999}'), 400, "temperature"),
    "temperature a string": (chat(temperature="hot"), 400, "temperature"),
    "top_p above 1": (chat(top_p=3), 400, "top_p"),
    "top_p 0": (chat(top_p=0), 400, "top_p"),
    "top_k below -1": (chat(top_k=-2), 400, "top_k"),
    "min_p above 1": (chat(min_p=1.5), 400, "min_p"),
    "repetition_penalty 0": (chat(repetition_penalty=0), 400, "repetition_penalty"),
    "presence_penalty 3": (chat(presence_penalty=3), 400, "presence_penalty"),
    "n 0": (chat(n=0), 400, "n"),
    "n huge": (chat(n=10**9, temperature=1), 400, "n"),
    "seed beyond 64 bits": (chat(seed=2**70), 400, "seed"),
    "max_tokens 0": (chat(max_tokens=0), 400, "max_tokens"),
    "max_tokens beyond the context": (text(max_tokens=100_000), 400, "max_tokens"),
    "stop list too long": (chat(stop=["a"] * 1000), 400, "stop"),
    "empty prompt": (text(prompt=""), 400, "prompt"),
    "empty list of ids": (text(prompt=[]), 400, "prompt"),
    "token id below 0": (text(prompt=[-1]), 400, "prompt"),
    "token id beyond the vocabulary": (text(prompt=[512]), 400, "prompt"),
    "token id beyond 64 bits": (text(prompt=[2**80]), 400, "prompt"),
    "stop_token_ids below 0": (text(stop_token_ids=[-1]), 400, "stop_token_ids"),
    "prompt longer than the context": (text(prompt=[5] * 3000), 400, "input_tokens"),
    "long text": (text(prompt="hello " * 100_000), 400, "input_tokens"),
    "lone surrogate": ((TEXT, '{"prompt": "\\ud800"}'), 400, None),
    "lone surrogate in the tenant": ((TEXT, '{"prompt": "x", "user": "\\ud800"}'), 400, "user"),
    "body too large": (text(prompt="x" * 10_000_000), 413, None),
    "detokenize out of range": (("/detokenize", '{"tokens": [99999]}'), 400, "tokens"),
    "tokenize a number": (("/tokenize", '{"prompt": 5}'), 400, None),
}


@pytest.mark.parametrize("name", CASES)
def test_is_refused_by_name(name: str, server: Server) -> None:
    (path, body), status, param = CASES[name]
    answer = server.client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text[:300]
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == status
    assert isinstance(error["message"], str)
    assert error["message"]
    for leak in ("Traceback", "0x", "/tmp", "site-packages", str(server.run_dir)):
        assert leak not in error["message"]
    if param is not None:
        assert param in (error["param"] or ""), error


def test_wrong_content_type(server: Server) -> None:
    answer = server.client.post(CHAT, content="{}", headers={"content-type": "text/plain"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == 400


def test_no_process_has_died_of_it(server: Server) -> None:
    before = {process.pid for process in server.children()}
    for (path, body), _, _ in CASES.values():
        for stream in (b"true", b"false"):
            data = body.encode()
            if data.endswith(b"}"):
                data = data[:-1] + b', "stream": ' + stream + b"}"
            headers = {"content-type": "application/json"}
            answer = server.client.post(path, content=data, headers=headers)
            assert 400 <= answer.status_code < 500
    assert {process.pid for process in server.children()} == before
    answer = server.client.post(TEXT, json={"model": "fake", "prompt": "x", "max_tokens": 3})
    assert answer.status_code == 200
    assert "Traceback" not in server.log
