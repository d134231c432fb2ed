"""An application on a fake pool, and a client for it."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from openai import AsyncOpenAI
from quart import Quart
from quart.typing import TestClientProtocol as Client
from sqlalchemy import create_engine
from tokenizers import Tokenizer, processors

from headrace.frontend.abortable import Abortable
from headrace.frontend.access.key_table import KeyTable
from headrace.frontend.adapters import AdapterUse
from headrace.frontend.app import create_app
from headrace.frontend.metrics import Metrics
from headrace.frontend.process.drain import Drain
from headrace.frontend.speech.audio_source import AudioSource
from headrace.frontend.store.engine import metadata
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.config import EngineConfig, GroupConfig, PoolConfig, ServingOptions
from headrace.protocol.text import PoolingInfo, TextInfo
from tests.frontend.fake_pool import FakePool
from tests.frontend.responses.postgres import binaries, cluster
from tests.frontend.structured.shared_checkers import new_grammars
from tests.frontend.text.tokenizers_for_tests import CHAT_TEMPLATE, EOS, SPECIAL, byte_level

ANSWER = "The capital of France is Paris."
MAKE_APP = Callable[..., Quart]
Serve = Callable[..., contextlib.AbstractAsyncContextManager[Client]]


@pytest.fixture(scope="session")
def text_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the launcher prepares it."""
    folder = tmp_path_factory.mktemp("text")
    backend = byte_level()
    backend.save(str(TextInfo.tokenizer_file(folder)))
    TextInfo(
        max_model_len=2048,
        vocab_size=backend.get_vocab_size() + 8,  # models often have more rows than tokens
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[2],
        unk_token=SPECIAL[0],
        eos_token_ids=(EOS,),
        chat_template=CHAT_TEMPLATE,
        added_tokens=dict(enumerate(SPECIAL)),
    ).save(folder)
    return folder


@pytest.fixture(scope="session")
def text(text_path: Path) -> ModelTokenizer:
    return ModelTokenizer.load(text_path)


@pytest.fixture
def pool(text: ModelTokenizer) -> FakePool:
    answer = text.backend.encode(ANSWER, add_special_tokens=False).ids
    return FakePool(lambda request: [*answer, EOS])


@pytest.fixture
def make_app(text: ModelTokenizer, text_path: Path, pool: FakePool, tmp_path: Path) -> MAKE_APP:
    """The application; keywords go into its PoolConfig."""

    def make(
        model: ModelTokenizer = text,
        serving: ServingOptions | None = None,
        drain: Drain | None = None,
        workers: int = 1,
        abortable: Abortable | None = None,
        use: AdapterUse | None = None,
        engine: EngineConfig | None = None,
        keys: KeyTable | None = None,
        recordings: AudioSource | None = None,
        **settings: object,
    ) -> Quart:
        group = GroupConfig(
            name="main",
            model="/secret/models/smol",
            model_path=Path("/secret/models/smol"),
            text_path=text_path,
            served_names=("smol", "smol-alias"),
            workers=workers,
            serving=serving or ServingOptions(),
            engine=engine or EngineConfig(),
        )
        config = PoolConfig(run_dir=tmp_path, groups=(group,), **settings)
        texts, metrics = {"main": model}, Metrics(config)
        return create_app(
            config,
            texts,
            pool,
            metrics,
            new_grammars(),
            drain,
            abortable,
            use,
            keys=keys,
            recordings=recordings,
        )

    return make


@pytest.fixture
def pooling_text(text: ModelTokenizer) -> ModelTokenizer:
    """A model that pools: texts begin and end with special tokens, and have at most 64."""
    backend = Tokenizer.from_str(text.backend.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[1]} $A {SPECIAL[2]}", special_tokens=[(SPECIAL[1], 1), (SPECIAL[2], 2)]
    )
    info = PoolingInfo(
        tasks=("embed", "token_embed"),
        size=3,
        prompts={"query": "capital ", "document": ""},
    )
    changes = {"pooling": info, "max_model_len": 64}
    return ModelTokenizer(text.info.model_copy(update=changes), backend)


@pytest.fixture
def pooling_client(make_app: MAKE_APP, pooling_text: ModelTokenizer) -> Client:
    return make_app(model=pooling_text).test_client()


@pytest.fixture
def client(make_app: MAKE_APP) -> Client:
    return make_app().test_client()


@pytest.fixture
async def openai_client(make_app: MAKE_APP) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's own client of the application."""
    app = make_app()
    async with app.test_app():
        transport = httpx2.ASGITransport(app)  # type: ignore[arg-type]
        http_client = httpx2.AsyncClient(transport=transport)
        async with AsyncOpenAI(
            base_url="http://test/v1", api_key="none", http_client=http_client, max_retries=0
        ) as client:
            yield client


@pytest.fixture
def serve(make_app: MAKE_APP) -> Serve:
    """`async with serve() as client`: a frontend from its start to its end. All of a test share the
    run directory of the test, with its store and files."""

    @contextlib.asynccontextmanager
    async def run(**settings: object) -> AsyncIterator[Client]:
        async with make_app(**settings).test_app() as app:
            yield app.test_client()

    return run


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with cluster(programs) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.db'}"
        return
    url = request.getfixturevalue("postgres")
    yield url
    engine = create_engine(url)
    metadata.drop_all(engine)
    engine.dispose()
