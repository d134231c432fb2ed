"""Every kind of request, over workers that die after a few tokens: the same answer to the token.

The frontend is the real application, the workers are real engines on a tiny model; only the sockets
between them are left out. On the fastest kernels each request is alone; on those for each other
instruction set, and on torch's operations, all are there at once.
"""

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
from _pytest.mark import ParameterSet
from quart import typing as quart_typing

from bench.load.http import EventParser
from headrace.frontend.app import create_app
from headrace.frontend.metrics import Metrics
from headrace.frontend.pool.interface import Pool
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.launcher.models.prepare_model import PreparedModel, PrepareOptions, prepare_model
from headrace.protocol.config import (
    EngineConfig,
    GroupConfig,
    PoolConfig,
    ServingOptions,
    SpeculativeConfig,
)
from headrace.workers.build import build_engine
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.native.library import choose_kernels
from tests.chaos.answers import Outcome
from tests.chaos.asking import body_of, read_stream, read_whole
from tests.chaos.catalogue import Request, make_requests
from tests.chaos.models import SERVED_AS, save_chaos_adapter, save_chaos_model
from tests.frontend.structured.shared_checkers import new_grammars
from tests.workers.processors import KERNELS, use_kernels

from .dying_pool import ADAPTER_ID, GROUP, WORKERS, DyingPool

FASTEST, *OTHERS = KERNELS
Life = Callable[[random.Random], int] | None
MakeEngine = Callable[[int], Engine]
REQUESTS = {request.name: request for request in make_requests()}


def few_steps(rng: random.Random) -> int:
    return rng.choice([0, 0, 1, 2, 5, 11, 23])


def more_steps(rng: random.Random) -> int:
    """A death means a replay of each request of the crowd."""
    return rng.choice([1, 5, 11, 23, 41])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreparedModel:
    folder = save_chaos_model(tmp_path_factory.mktemp("models") / "tiny")
    return prepare_model(str(folder), PrepareOptions(tmp_path_factory.mktemp("text")), print)


@pytest.fixture(scope="module")
def make_engine(
    request: pytest.FixtureRequest,
    model: PreparedModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[MakeEngine]:
    """Engines of one slot share a model and its cache, but do not know the cache's contents."""
    mode, kernels = request.param
    use_kernels(kernels)
    lookup = SpeculativeConfig(
        method="ngram", num_speculative_tokens=4, prompt_lookup_max=5, prompt_lookup_min=5
    )
    speculative = lookup if mode == "prompt lookup" else None
    config = EngineConfig(
        dtype="float32",
        threads=1,
        kv_cache_bytes=2**24,
        speculative_config=speculative,
        enable_lora=True,
        cpu_kernels=kernels,
    )
    adapter = save_chaos_adapter(tmp_path_factory.mktemp("a") / "a", model.model_path, "tiny")
    first = [
        build_engine(model.model_path, config, 1, print, model.text_path) for _ in range(WORKERS)
    ]
    for engine in first:
        engine.add_adapter(ADAPTER_ID, adapter)

    def make(slot: int) -> Engine:
        gate = first[slot]._gate
        return assemble_engine(
            first[slot].runner,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=512,
            speculative_config=speculative,
            grammars=None if gate is None else gate.grammars,
            adapters=first[slot]._adapters,
            max_loras=config.max_loras,
        )

    yield make
    choose_kernels("auto")


@pytest.fixture(scope="module")
def right(make_engine: MakeEngine) -> dict[str, Outcome]:
    """The undisturbed answers, each asked for once."""
    return {}


async def answers(
    pool: DyingPool, model: PreparedModel, folder: Path, requests: list[Request], stream: bool
) -> list[Outcome]:
    """Send the requests at once; stream: those that can be streamed are."""
    group = GroupConfig(
        name=GROUP,
        model=SERVED_AS,
        model_path=model.model_path,
        text_path=model.text_path,
        served_names=(SERVED_AS,),
        workers=WORKERS,
        serving=ServingOptions(),
    )
    config = PoolConfig(run_dir=folder, groups=(group,))
    texts = {GROUP: ModelTokenizer.load(model.text_path)}
    # It makes no calls to workers.
    app = create_app(config, texts, cast(Pool, pool), Metrics(config), new_grammars())

    async def answer(client: quart_typing.TestClientProtocol, request: Request) -> Outcome:
        streamed = stream and request.can_stream
        response = await client.post(request.path, json=body_of(request, streamed))
        data = await response.get_data(as_text=False)
        assert isinstance(data, bytes)
        assert response.status_code == 200, data
        if streamed:
            return read_stream(request, EventParser().feed(data))
        return read_whole(request, data)

    async with pool.running(), app.test_app() as serving:
        client = serving.test_client()
        found = await asyncio.gather(*(answer(client, request) for request in requests))
    assert pool.in_flight == 0
    return found


def cases() -> list[ParameterSet]:
    """All requests streamed and whole; with prompt lookup in one way only, as it changes what
    workers send and nothing of how it is put into an answer."""
    plain = [
        (("plain", FASTEST), name, stream)
        for name, request in REQUESTS.items()
        for stream in (False, True)
        if request.can_stream or not stream
    ]
    lookup = [
        (("prompt lookup", FASTEST), name, request.can_stream) for name, request in REQUESTS.items()
    ]
    return [
        pytest.param(*case, id=f"{case[0][0]}-{case[1]}, {'streamed' if case[2] else 'whole'}")
        for case in [*plain, *lookup]
    ]


@pytest.mark.parametrize(("make_engine", "name", "stream"), cases(), indirect=["make_engine"])
async def test_an_answer_is_the_same_over_workers_that_die(
    name: str,
    stream: bool,
    make_engine: MakeEngine,
    model: PreparedModel,
    right: dict[str, Outcome],
    tmp_path: Path,
) -> None:
    request = REQUESTS[name]
    rng = random.Random(name)
    if name not in right:
        calm = DyingPool(make_engine, rng, None)
        (right[name],) = await answers(calm, model, tmp_path, [request], False)
    dying = DyingPool(make_engine, rng, few_steps)
    (got,) = await answers(dying, model, tmp_path, [request], stream)
    assert not right[name].differences(got)
    assert dying.replays > 3


# Torch's operations take longest: one request of each three.
CROWDS = [
    pytest.param(("prompt lookup", kernels), 3 if kernels == "torch" else 1, id=kernels)
    for kernels in (*OTHERS, "torch")
]


@pytest.mark.parametrize(("make_engine", "each"), CROWDS, indirect=["make_engine"])
async def test_all_answers_are_the_same_on_any_kernels(
    make_engine: MakeEngine, each: int, model: PreparedModel, tmp_path: Path
) -> None:
    rng, requests = random.Random(1), list(REQUESTS.values())[::each]
    calm = DyingPool(make_engine, rng, None)
    expected = await answers(calm, model, tmp_path, requests, False)
    dying = DyingPool(make_engine, rng, more_steps)
    got = await answers(dying, model, tmp_path, requests, True)
    for request, right, other in zip(requests, expected, got, strict=True):
        assert not right.differences(other), request.name
    assert dying.replays > 2 * len(requests)
