"""A folder without an adapter of the model is rejected with a reason; nothing is kept of it."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.engine.fake_runner import FakeRunner
from headrace.workers.errors import AdapterError
from headrace.workers.lora.adapter_files import read_adapter
from tests.lora_adapters import make_adapter, make_converted_adapter, tensors_of
from tests.workers.driving import run
from tests.workers.lora.lora_engines import Tiny, adapted, make_tiny
from tests.workers.tiny_models import save_model, save_tiny

Change = Callable[[Path], None]
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
ITS_OTHER = FIRST.replace("lora_A", "lora_B")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("llama"), "llama", {"usual": {"rank": 8}})


@pytest.fixture(scope="module")
def engine(tiny: Tiny) -> Engine:
    return tiny.engine()


def config(**fields: Any) -> Change:
    def change(folder: Path) -> None:
        written = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(written | fields))

    return change


def config_is(text: str) -> Change:
    return lambda folder: void((folder / CONFIG).write_text(text))


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def apply(folder: Path) -> None:
        found = tensors_of(folder)
        change(found)
        save_file({name: each.contiguous() for name, each in found.items()}, folder / WEIGHTS)

    return apply


def rename(tensors: dict[str, torch.Tensor], old: str, new: str) -> None:
    for name in list(tensors):
        if old in name:
            tensors[name.replace(old, new)] = tensors.pop(name)


def cut_off(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 40)


def pickle_only(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def too_large(name: str) -> Change:
    def change(folder: Path) -> None:
        with (folder / name).open("ab") as file:
            file.truncate(2**30)

    return change


def instead(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def void(value: object) -> None:
    """For what is done for its effect."""


CASES: dict[str, Change] = {
    "the adapter has no adapter_config.json": lambda folder: (folder / CONFIG).unlink(),
    "the adapter has no adapter_model.safetensors": lambda folder: (folder / WEIGHTS).unlink(),
    "adapter_model.bin is pickle, which is not read": pickle_only,
    "adapter_config.json is not a file": instead(CONFIG),
    "adapter_model.safetensors is not a file": instead(WEIGHTS),
    "adapter_config.json is larger than 1048576 bytes": too_large(CONFIG),
    r"adapter_model.safetensors is larger than \d+ bytes": too_large(WEIGHTS),
    "adapter_config.json: is not JSON": config_is("{"),
    "adapter_config.json: is not JSON*": config_is("[" * 100_000),
    "adapter_config.json: is not a JSON object": config_is("[]"),
    "peft_type must be LORA, not 'IA3'": config(peft_type="IA3"),
    "peft_type must be LORA, not None": config_is("{}"),
    "r must be a positive integer": config(r="8"),
    "r must be a positive integer$": config(r=True),
    ": r must be a positive integer": config(r=0),
    "r is 17, which is more than max_lora_rank, 16": config(r=17),
    "rank_pattern must be a positive integer": config(rank_pattern={"q_proj": -1}),
    "rank_pattern is 99, which is more": config(rank_pattern={"q_proj": 99}),
    "rank_pattern must be an object": config(rank_pattern=[1]),
    "alpha_pattern must be an object": config(alpha_pattern="q_proj"),
    "alpha_pattern must be a number": config(alpha_pattern={"q_proj": "1"}),
    "lora_alpha must be a number": config(lora_alpha=None),
    "lora_alpha must be a number up to 1000000": config(lora_alpha=float("nan")),
    "use_rslora must be true or false": config(use_rslora=1),
    r"rank_pattern has a key that is too elaborate: '\(q": config(rank_pattern={"(q_proj)?": 8}),
    r"too elaborate: 'a\?b": config(alpha_pattern={"a?b?c?d?": 8}),
    "too elaborate: 'qqq": config(alpha_pattern={"q" * 201: 8}),
    r"not a regular expression: '\[": config(alpha_pattern={"[": 8}),
    "not a regular expression: ": config(alpha_pattern={"a)(b": 8}),
    "more than 8 regular expressions": config(rank_pattern={f"a{n}|b": 8 for n in range(9)}),
    "use_dora is not supported": config(use_dora=True),
    "lora_bias is not supported": config(lora_bias=True),
    "modules_to_save is not supported": config(modules_to_save=["lm_head"]),
    "trainable_token_indices is not supported": config(trainable_token_indices=[1]),
    "layer_replication is not supported": config(layer_replication=[[0, 1]]),
    "target_parameters is not supported": config(target_parameters=["experts"]),
    "alora_invocation_tokens is not": config(alora_invocation_tokens=[3]),
    "bias must be none": config(bias="all"),
    "is not a safetensors file, or is damaged": lambda folder: void(
        (folder / WEIGHTS).write_bytes(b"not safetensors")
    ),
    "not a safetensors file, or is damaged": cut_off,
    "adapter_model.safetensors: it has no LoRA matrices": tensors(dict.clear),
    "an adapter on lm_head is not supported: the output layer cannot": tensors(
        lambda some: some.update({"base_model.model.lm_head.weight": torch.ones(2, 2)})
    ),
    r"DoRA \(lora_magnitude_vector\) is not supported": tensors(
        lambda some: some.update(
            {FIRST.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(2)}
        )
    ),
    "the model has no layer 'model.layers.7.self_attn": tensors(
        lambda some: rename(some, "layers.1", "layers.7")
    ),
    "an adapter on lm_head is not supported": tensors(
        lambda some: rename(some, "model.layers.0.self_attn.q_proj", "lm_head")
    ),
    "an adapter on embed_tokens is not supported: embeddings cannot": tensors(
        lambda some: rename(some, "layers.0.self_attn.q_proj", "embed_tokens")
    ),
    r"a change of embeddings \(lora_embedding\) is not supported": tensors(
        lambda some: some.update({"base_model.model.x.lora_embedding_A": torch.ones(2, 2)})
    ),
    r"a bias \(lora_B.bias\) is not supported": tensors(
        lambda some: some.update({ITS_OTHER.replace("weight", "bias"): torch.ones(2)})
    ),
    r"a retrained module \(modules_to_save\) is not supported": tensors(
        lambda some: some.update({"base_model.model.norm.modules_to_save.weight": torch.ones(2)})
    ),
    **{
        f"init_lora_weights '{name}' is not supported, since it changes the base": config(
            init_lora_weights=name
        )
        for name in ("pissa", "pissa_niter_16", "olora", "OLoRA", "corda", "lora_ga")
    },
    # PEFT does not convert these.
    "init_lora_weights 'loftq' is not supported, since it belongs to quantized weights$": config(
        init_lora_weights="loftq"
    ),
    "init_lora_weights 'nonsense' is unknown": config(init_lora_weights="nonsense"),
    "init_lora_weights 1 is unknown": config(init_lora_weights=1),
    "init_lora_weights \\['pissa'\\] is unknown": config(init_lora_weights=["pissa"]),
    "the model has no layer 'q_proj'": tensors(
        lambda some: rename(some, "model.layers.0.self_attn.q_proj", "q_proj")
    ),
    "two names are of the same layer": tensors(
        lambda some: some.update(
            {
                FIRST.replace("model.model.", "model."): some[FIRST].clone(),
                ITS_OTHER.replace("model.model.", "model."): some[ITS_OTHER].clone(),
            }
        )
    ),
    "has two matrices A": tensors(
        lambda some: some.update({FIRST.replace("weight", "default.weight"): some[FIRST].clone()})
    ),
    "has only one of its two matrices": tensors(lambda some: some.pop(FIRST)),
    r"has matrices \[8, 31\] and \[32, 8\]; the model and adapter_config.json require \[8, 32\]": (
        tensors(lambda some: some.update({FIRST: torch.ones(8, 31)}))
    ),
    r"has matrices \[4, 32\] and \[32, 4\]": tensors(
        lambda some: some.update({FIRST: torch.ones(4, 32), ITS_OTHER: torch.ones(32, 4)})
    ),
    r"has matrices \[8, 32\] and \[32, 9\]": tensors(
        lambda some: some.update({ITS_OTHER: torch.ones(32, 9)})
    ),
    "is not a matrix of 16 or 32 bit floats": tensors(
        lambda some: some.update({FIRST: torch.ones(8)})
    ),
    "not a matrix of 16 or 32 bit floats": tensors(
        lambda some: some.update({FIRST: torch.ones(8, 32, dtype=torch.int32)})
    ),
    "has values that are not finite in torch.float32": tensors(
        lambda some: some[FIRST].fill_(float("nan"))
    ),
    "has values that are not finite": tensors(lambda some: some[ITS_OTHER][3].fill_(float("inf"))),
    "values that are not finite": tensors(lambda some: some[ITS_OTHER].fill_(3e38)),
}


@pytest.mark.parametrize("reason", CASES)
def test_it_is_refused(tiny: Tiny, engine: Engine, tmp_path: Path, reason: str) -> None:
    folder = tmp_path / "secret"
    shutil.copytree(tiny.adapters["usual"], folder)
    CASES[reason](folder)
    with pytest.raises(AdapterError, match=reason) as caught:
        engine.add_adapter("bad", folder)
    assert "\n" not in caught.value.reason
    assert "secret" not in caught.value.reason
    assert len(caught.value.reason) < 500
    assert engine.adapter_ids == {"usual"}


def test_it_is_refused_for_another_base(tiny: Tiny, engine: Engine, tmp_path: Path) -> None:
    name, model_class, _ = "LlamaConfig", "LlamaForCausalLM", None
    save_model(tmp_path / "larger", name, model_class, {"hidden_size": 64})
    folder = make_adapter(tmp_path / "adapter", tmp_path / "larger")
    with pytest.raises(AdapterError, match=r"has matrices \[8, 64\]"):
        engine.add_adapter("bad", folder)


def test_experts_of_a_mixture_are_no_layers(tmp_path: Path) -> None:
    tiny = make_tiny(tmp_path, "qwen3_moe", {"usual": {}})
    path = tiny.adapters["usual"]
    tensors(lambda some: rename(some, "self_attn.q_proj", "mlp.experts.0.up_proj"))(path)
    with pytest.raises(AdapterError, match=r"no layer 'model.layers.\d.mlp.experts.0.up_proj'"):
        tiny.engine()


@pytest.mark.parametrize(
    "module",
    [["lm_head"], ["lm_head", "q_proj"], ["embed_tokens"], ["q_proj", "embed_tokens"]],
    ids=" ".join,
)
def test_layers_outside_the_repeated_ones_are_named(
    tiny: Tiny, engine: Engine, tmp_path: Path, module: list[str]
) -> None:
    folder = make_adapter(tmp_path, tiny.path, targets=module)
    named = next(name for name in module if name != "q_proj")
    with pytest.raises(AdapterError, match=f"an adapter on {named} is not supported|embeddings"):
        engine.add_adapter("bad", folder)


@pytest.mark.parametrize("kind", ["pissa", "pissa_niter_4", "olora"])
def test_what_belongs_to_a_changed_base_is_refused(
    tiny: Tiny, engine: Engine, tmp_path: Path, kind: str
) -> None:
    """PEFT's own files: the same matrices on the unchanged base give other answers."""
    folder = make_adapter(tmp_path / "own", tiny.path, init_lora_weights=kind)
    with pytest.raises(AdapterError, match=f"init_lora_weights '{kind}' is not supported"):
        engine.add_adapter("bad", folder)


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_what_peft_has_converted_is_a_plain_adapter(tmp_path: Path, kind: str) -> None:
    save_tiny(tmp_path / "model", "llama")
    folder = make_converted_adapter(tmp_path / "adapter", tmp_path / "model", kind)
    tiny = Tiny(tmp_path / "model", {"converted": folder})
    asked = adapted("r", (1, 2, 3), "converted")
    answers = run(tiny.engine(), [(0, asked)])
    tiny.check("converted", asked.prompt_token_ids, answers["r"].tokens)


@pytest.mark.parametrize("kind", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_what_leaves_the_base_alone_is_taken(
    tiny: Tiny, engine: Engine, tmp_path: Path, kind: Any
) -> None:
    shutil.copytree(tiny.adapters["usual"], tmp_path, dirs_exist_ok=True)
    config(init_lora_weights=kind)(tmp_path)
    engine.add_adapter("good", tmp_path)
    engine.remove_adapter("good")


def test_another_name_of_the_base_is_no_matter(tiny: Tiny, engine: Engine, tmp_path: Path) -> None:
    shutil.copytree(tiny.adapters["usual"], tmp_path, dirs_exist_ok=True)
    config(base_model_name_or_path="somebody/else", unknown_field={"x": 1})(tmp_path)
    engine.add_adapter("good", tmp_path)
    assert engine.adapter_ids == {"usual", "good"}
    engine.remove_adapter("good")
    assert engine.adapter_ids == {"usual"}


def test_a_larger_rank_is_a_matter_of_the_configuration(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", "llama")
    folder = make_adapter(tmp_path / "adapter", tmp_path / "model", rank=20)
    tiny = Tiny(tmp_path / "model", {"large": folder})
    with pytest.raises(AdapterError, match="max_lora_rank, 16"):
        tiny.engine()
    asked = adapted("r", (1, 2, 3), "large")
    answers = run(tiny.engine(max_lora_rank=32), [(0, asked)])
    tiny.check("large", asked.prompt_token_ids, answers["r"].tokens)


def test_a_value_that_overflows_16_bits_is_refused_where_they_are_used(
    tiny: Tiny, tmp_path: Path
) -> None:
    shutil.copytree(tiny.adapters["usual"], tmp_path, dirs_exist_ok=True)
    tensors(lambda some: some[ITS_OTHER].fill_(5e4))(tmp_path)
    runner: Any = tiny.engine().runner
    layers = runner.adapter_layers
    assert read_adapter(tmp_path, layers, 16).matrices
    halves = {name: replace(shape, dtype=torch.float16) for name, shape in layers.items()}
    with pytest.raises(AdapterError, match=r"not finite in torch.float16"):
        read_adapter(tmp_path, halves, 16)


def test_adding_twice_and_removing_what_is_not_there_is_harmless(engine: Engine) -> None:
    engine.add_adapter("usual", Path("nowhere"))
    engine.remove_adapter("unknown")
    assert engine.adapter_ids == {"usual"}


def test_an_adapter_in_use_is_not_removed(tiny: Tiny, engine: Engine) -> None:
    engine.add(adapted("r", (1, 2, 3), "usual"))
    with pytest.raises(AdapterError, match="the adapter is in use"):
        engine.remove_adapter("usual")
    engine.abort("r")
    other = tiny.engine()
    other.remove_adapter("usual")
    assert not other.adapter_ids


def test_an_engine_without_lora_takes_none(tiny: Tiny) -> None:
    runner = FakeRunner(vocab_size=9, max_model_len=9, num_blocks=9, block_size=1)
    engine = assemble_engine(runner, max_num_seqs=1, max_num_batched_tokens=9)
    with pytest.raises(AdapterError, match="this model takes no adapters"):
        engine.add_adapter("usual", tiny.adapters["usual"])
    assert engine.adapter_ids == frozenset()
    engine.remove_adapter("usual")
