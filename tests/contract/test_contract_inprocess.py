"""The contract's samples against the application on a fake pool."""

from pathlib import Path

import pytest
from quart.testing.connections import TestHTTPConnection as Connection
from quart.typing import TestClientProtocol as Client
from werkzeug.datastructures import Headers

from headrace.frontend.app import create_app
from headrace.frontend.metrics import Metrics
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.config import GroupConfig, PoolConfig, ServingOptions
from headrace.protocol.text import PoolingInfo, TextInfo
from headrace.protocol.to_worker import Generate
from tests.contract import replay
from tests.frontend.fake_pool import FakePool
from tests.frontend.structured.shared_checkers import new_grammars
from tests.frontend.text.tokenizers_for_tests import CHAT_TEMPLATE, EOS, SPECIAL, byte_level

ANSWERS = {
    "chat": "The capital of France is Paris.",
    "completion": " Paris.\n\nThe answer",
    "arguments": '{"city": "Paris"}',
    "choice": "Hello world again my friend",
    "calls": '[{"name": "get_weather", "parameters": {"city": "Paris"}}]',
}


def kind_of(request: Generate) -> str:
    """Which of the answers a model would give."""
    if request.grammar is not None and "city" in request.grammar.text:
        return "calls" if "parameters" in request.grammar.text else "arguments"
    if request.grammar is not None and ANSWERS["choice"] in request.grammar.text:
        return "choice"
    return "chat" if EOS in request.prompt_token_ids else "completion"


def client_of(
    tmp_path: Path, pooling: PoolingInfo | None = None, name: str = "smol", **settings: object
) -> Client:
    backend = byte_level()
    info = TextInfo(
        max_model_len=2048 if pooling is None else 256,
        pooling=pooling,
        vocab_size=49152,  # the model's that was recorded; a sample holds its ids
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[2],
        unk_token=SPECIAL[0],
        eos_token_ids=(EOS,),
        chat_template=CHAT_TEMPLATE,
        added_tokens=dict(enumerate(SPECIAL)),
    )
    info.save(tmp_path)
    backend.save(str(TextInfo.tokenizer_file(tmp_path)))
    text = ModelTokenizer(info, backend)
    replies = {kind: text.backend.encode(answer).ids for kind, answer in ANSWERS.items()}
    pool = FakePool(lambda request: [*replies[kind_of(request)], EOS])
    group = GroupConfig(
        name="main",
        model="/secret/smol",
        model_path=Path("/secret/smol"),
        text_path=tmp_path,
        served_names=(name,),
        serving=ServingOptions(tool_call_parser="hermes"),
    )
    enabled = {"enable_tokenizer_info": True, "enable_admin": True}
    cors = {
        "allowed_origins": ("https://app.example",),
        "allowed_methods": ("GET", "POST"),
        "allowed_headers": ("content-type", "authorization"),
        "allow_credentials": True,
    }
    config = PoolConfig.model_validate(
        {"run_dir": tmp_path, "groups": (group,), **enabled, **cors, **settings}
    )
    return create_app(config, {"main": text}, pool, Metrics(config), new_grammars()).test_client()


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return client_of(tmp_path)


def caller(client: Client) -> replay.Call:
    async def call(
        method: str, path: str, headers: dict[str, str], body: bytes | None
    ) -> replay.Answer:
        connection = client.request(path, method=method, headers=Headers(headers))
        async with connection:
            if body is not None:
                await connection.send(body)
            await connection.send_complete()
        # Not `as_response`, which would add a content type where the server has sent none.
        assert isinstance(connection, Connection)
        assert connection.status_code is not None
        assert connection.headers is not None
        return replay.Answer(
            connection.status_code,
            {name.lower(): value for name, value in connection.headers.items()},
            connection.response_data.decode(),
        )

    return call


@pytest.mark.parametrize("name", replay.names())
async def test_sample(name: str, client: Client) -> None:
    await replay.replay(name, caller(client))


@pytest.mark.parametrize("name", sorted(replay.WITH_KEY))
async def test_sample_with_a_key(name: str, tmp_path: Path) -> None:
    await replay.replay(name, caller(client_of(tmp_path, api_keys=(replay.KEY,))))


@pytest.mark.parametrize("name", sorted(replay.OF_EMBEDDINGS))
async def test_sample_of_an_embedding_model(name: str, tmp_path: Path) -> None:
    info = PoolingInfo(tasks=("embed", "token_embed"), size=3)
    await replay.replay(name, caller(client_of(tmp_path, info, "minilm")))


def test_every_sample_is_replayed_or_named() -> None:
    samples = {path.stem for path in replay.SAMPLES.glob("*.json")}
    assert len(samples) == 74
    assert set(replay.LATER) <= samples
    others = replay.WITH_KEY | replay.OF_EMBEDDINGS
    assert set(replay.names()) | set(replay.LATER) | others == samples
