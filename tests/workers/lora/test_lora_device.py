"""Adapters on the runner for GPUs: PEFT's texts, and recorded decodes where there are none."""

from functools import partial
from typing import Any

import pytest
import torch

from headrace.workers.attention.hook import AttentionHook
from headrace.workers.attention.varlen import VarlenBackend
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.lora.slots import AdapterSlots
from headrace.workers.torch_runner.decode_graphs import choose_buckets
from headrace.workers.torch_runner.device_runner import DeviceRunner
from headrace.workers.torch_runner.loading import load_model
from tests.workers.attention.reference_varlen import reference_varlen
from tests.workers.driving import run
from tests.workers.lora.lora_engines import Tiny, adapted, make_prompts, make_tiny
from tests.workers.recording import Rerun

BLOCK = 4
KINDS: dict[str, dict[str, Any]] = {
    "usual": {"rank": 8},
    "wide": {"rank": 16, "targets": "all-linear"},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("llama"), "llama", KINDS)


def make_engine(tiny: Tiny, record: Rerun, max_loras: int = 2) -> Engine:
    model = load_model(tiny.path, "float32", torch.device("cpu"))
    hook = AttentionHook()
    with torch.inference_mode():
        hook.probe(model)
    runner = DeviceRunner(
        model,
        hook,
        max_model_len=128,
        num_blocks=200,
        block_size=BLOCK,
        make_backend=partial(
            VarlenBackend, paged=True, attention=partial(reference_varlen, multiple=BLOCK)
        ),
        slots=AdapterSlots.of(model, max_loras),
    )
    runner.capture_decodes(choose_buckets(12, 60, 4), record)
    adapters = runner.new_adapters(16)
    assert adapters is not None
    limits: dict[str, Any] = {"max_num_seqs": 16, "max_num_batched_tokens": 64}
    engine = assemble_engine(runner, adapters=adapters, max_loras=max_loras, **limits)
    for name, folder in tiny.adapters.items():
        engine.add_adapter(name, folder)
    return engine


@pytest.mark.parametrize("max_loras", [1, 2])
def test_texts_are_pefts_and_graphs_have_no_adapters(tiny: Tiny, max_loras: int) -> None:
    record = Rerun()
    engine = make_engine(tiny, record, max_loras)
    names = ["", *KINDS]
    arrivals = [
        (number, adapted(f"r{number}", prompt, names[number % 3]))
        for number, prompt in enumerate(make_prompts(12))
    ]
    answers = run(engine, arrivals)
    for _, one in arrivals:
        tiny.check(one.adapter, one.prompt_token_ids, answers[one.request_id].tokens)
    before = record.num_replayed
    run(engine, [(0, adapted("with", (1, 2, 3), "usual"))])
    assert record.num_replayed == before
    answers = run(engine, [(0, adapted("without", (1, 2, 3)))])
    assert record.num_replayed > before
    tiny.check("", (1, 2, 3), answers["without"].tokens)
