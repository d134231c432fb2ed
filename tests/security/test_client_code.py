"""Nothing that a client sends is run: neither pickles nor what looks like Python."""

import base64
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.chat.message import CollectedMessage
from tests.frontend.chat.test_tool_parsers import WELL_WRITTEN, reader
from tests.frontend.fake_pool import FakePool


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self._file,)


@pytest.mark.parametrize("shape", ["one", "several"])
async def test_cve_2025_62164_prompt_embeddings(
    client: Client, pool: FakePool, tmp_path: Path, shape: str
) -> None:
    """CVE-2025-62164: embeddings that a client sends are loaded as pickles."""
    file = tmp_path / "canary"
    sent = base64.b64encode(pickle.dumps(Touch(file))).decode()
    embeds = sent if shape == "one" else [sent, sent]
    for prompt in ({}, {"prompt": "Hi"}):
        response = await client.post("/v1/completions", json={**prompt, "prompt_embeds": embeds})
        body = await response.get_json()
        assert response.status_code == 400
        assert body["error"]["param"] == "prompt_embeds"
    assert not file.exists()
    assert not pool.requests
    pickle.loads(base64.b64decode(sent))
    assert file.exists()  # so that the test could fail


@pytest.mark.parametrize(
    ("spec", "text"), [pytest.param(case[0], case[1], id=case[0]) for case in WELL_WRITTEN]
)
def test_cve_2025_9141_arguments_stay_text(spec: str, text: str, tmp_path: Path) -> None:
    """CVE-2025-9141 (GHSA-79j6-g2m3-jgfw): arguments of calls are evaluated."""
    file = tmp_path / "canary"
    code = f"__import__('pathlib').Path('{file}').touch()"
    assert "Paris" in text
    hostile = [text.replace(quoted, code) for quoted in ("Paris", '"Paris"', "'Paris'")]
    changed = [written for written in hostile if written != text]
    for written in [*changed, f"[f(a={code})]", f"[{code}]", code]:
        for pieces in ([written], list(written)):
            one, message = reader(spec), CollectedMessage()
            for piece in pieces:
                message.add(one.feed(piece))
            message.add(one.finish())
            read = message.content + "".join(call.arguments for call in message.tool_calls)
            assert not file.exists()
            assert "pathlib" in read or "import" in read, (written, read)
    eval(code)
    assert file.exists()
