"""Mixtures of experts as compiled programs, against transformers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.ernie4_5_moe.modeling_ernie4_5_moe import Ernie4_5_MoeTopKRouter
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts, GptOssTopKRouter
from transformers.models.minimax_m2.modeling_minimax_m2 import MiniMaxM2TopKRouter
from transformers.models.phimoe.modeling_phimoe import PhimoeTopKRouter

from headrace.protocol.config import Dtype, Quantization
from headrace.workers.linear.quantization import dequantize_weight, quantize_weight
from headrace.workers.native.experts.layers import find_experts
from headrace.workers.native.experts.routing import RoutingKind, find_routing
from headrace.workers.native.graph import NotStatic
from headrace.workers.native.program import CompiledProgram
from tests.workers.native.test_batch_invariance import KINDS, assert_same
from tests.workers.native.test_native import (
    assert_close,
    blocks_of,
    load,
    reference,
    run,
    tokens_of,
)
from tests.workers.processors import needs_kernels, on_each_set
from tests.workers.tiny_models import MODELS as TINY

EXPERTS: dict[str, Any] = {
    "num_local_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
}
QWEN3: dict[str, Any] = {"config": "Qwen3MoeConfig", "model": "Qwen3MoeForCausalLM"}
QWEN3_OPTIONS = {**EXPERTS, "norm_topk_prob": True, "head_dim": 8}
# name: (beginning of the names of configuration and model, options)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", {}),
    "qwen2_moe": ("Qwen2Moe", {"shared_expert_intermediate_size": 40}),
    "olmoe": ("Olmoe", {}),
    "granitemoe": ("GraniteMoe", {"residual_multiplier": 0.7, "logits_scaling": 1.5}),
    "glm4_moe": ("Glm4Moe", {"n_routed_experts": 8, "n_group": 4, "topk_group": 2}),
    "hunyuan_v1_moe": ("HunYuanMoEV1", {"moe_topk": 3, "head_dim": 8}),
}
LENGTH = 90
CUTS = ((0, 2), (2, 80), (80, 89), (89, LENGTH))


def logits(compiled: CompiledProgram, tokens: list[int]) -> torch.Tensor:
    """The logits of a text of LENGTH tokens, in chunks of several sizes."""
    program, blocks = compiled.start(10, 16), blocks_of(LENGTH)
    return torch.cat([run(program, [(tokens, start, end, blocks)]) for start, end in CUTS])


def randomize(module: torch.nn.Module, factor: float) -> None:
    """Fill weights, and the vectors that start at zero, with random numbers."""
    generator = torch.Generator().manual_seed(4)
    for value in (*module.parameters(), *module.buffers()):
        value.data = (factor * torch.randn(value.shape, generator=generator)).to(value.dtype)


def make(kind: Any, config: SimpleNamespace) -> torch.nn.Module:
    module: torch.nn.Module = kind(config)
    return module


def layers(model: PreTrainedModel) -> list[Any]:
    return list(model.model.layers)


@on_each_set
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_transformers_own(tmp_path: Path, name: str) -> None:
    beginning, own = MODELS[name]
    config, kind = f"{beginning}Config", f"{beginning}ForCausalLM"
    model, hook = load(tmp_path, {**EXPERTS, **own}, config=config, model=kind)
    tokens = tokens_of(LENGTH)
    assert_close(logits(CompiledProgram(model, hook, 2), tokens), reference(model, tokens))


ROUTER = SimpleNamespace(
    **EXPERTS, num_experts=8, hidden_size=32, norm_topk_prob=True, routed_scaling_factor=2.5,
    n_group=4, topk_group=2, topk_method="group_limited_greedy", moe_norm_min=1e-12,
)  # fmt: skip
GREEDY = SimpleNamespace(**{**vars(ROUTER), "topk_method": "greedy"})
ROUTERS: dict[str, tuple[torch.nn.Module, RoutingKind]] = {
    "best of a softmax": (
        make(DeepseekV2TopkRouter, GREEDY), RoutingKind(3, factor=2.5)
    ),
    "best groups of a softmax": (
        make(DeepseekV2TopkRouter, ROUTER), RoutingKind(3, groups=4, kept_groups=2, factor=2.5)
    ),
    "groups of sigmoids, biased": (
        make(DeepseekV3TopkRouter, ROUTER), RoutingKind(3, True, True, 4, 2, True, 2.5)
    ),
    "biased softmax": (make(Ernie4_5_MoeTopKRouter, ROUTER), RoutingKind(3, normalized=True)),
    "softmax of the best": (make(GptOssTopKRouter, ROUTER), RoutingKind(3, normalized=True)),
}  # fmt: skip


@on_each_set
@pytest.mark.parametrize("name", ROUTERS)
def test_routers_are_known_by_what_they_do(tmp_path: Path, name: str) -> None:
    router, kind = ROUTERS[name]
    model, hook = load(tmp_path, QWEN3_OPTIONS, **QWEN3)
    randomize(router, 0.3)
    for layer in layers(model):
        layer.mlp.gate = router
    found = find_routing(router)
    assert found is not None
    assert (found.kind.sigmoid, found.kind.normalized) == (kind.sigmoid, kind.normalized)
    assert (found.kind.groups, found.kind.kept_groups) == (kind.groups, kind.kept_groups)
    assert (found.kind.count, found.kind.factor) == (kind.count, kind.factor)
    tokens = tokens_of(LENGTH)
    assert_close(logits(CompiledProgram(model, hook, 2), tokens), reference(model, tokens))


def test_vectors_that_a_router_is_called_with_count() -> None:
    router = make(MiniMaxM2TopKRouter, SimpleNamespace(**EXPERTS, hidden_size=32))
    randomize(router, 0.3)
    found = find_routing(router)
    assert found is not None
    bias = torch.arange(8.0)
    assert found.vector("choice", [bias]) is not None
    assert found.vector("bias", [bias]) is None
    with pytest.raises(NotStatic):
        found.vector("choice", [])


@needs_kernels
def test_another_routing_is_not_guessed(tmp_path: Path) -> None:
    model, hook = load(tmp_path, QWEN3_OPTIONS, **QWEN3)
    config = SimpleNamespace(**EXPERTS, hidden_size=32, router_jitter_noise=0.1,
                             input_jitter_noise=0.1)  # fmt: skip
    layers(model)[1].mlp.gate = make(PhimoeTopKRouter, config)
    with pytest.raises(NotStatic, match="how PhimoeTopKRouter chooses experts is not known"):
        CompiledProgram(model, hook, 1)


@needs_kernels
def test_other_experts_are_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, hook = load(tmp_path, QWEN3_OPTIONS, **QWEN3)
    experts = layers(model)[1].mlp.experts
    monkeypatch.setattr(
        type(experts), "_apply_gate", lambda self, both: both.chunk(2, -1)[0].relu().square()
    )
    assert find_experts(experts) is None
    with pytest.raises(NotStatic, match="what the experts of Qwen3MoeExperts compute"):
        CompiledProgram(model, hook, 1)


@needs_kernels
def test_more_experts_than_the_kernels_know_are_refused(tmp_path: Path) -> None:
    options = {**QWEN3_OPTIONS, "num_local_experts": 1025, "moe_intermediate_size": 4}
    model, hook = load(tmp_path, {**options, "hidden_size": 4, "num_hidden_layers": 1}, **QWEN3)
    with pytest.raises(NotStatic, match="more than 1024 experts"):
        CompiledProgram(model, hook, 1)


@on_each_set
def test_clamped_gates_with_biases_between_each_other(tmp_path: Path) -> None:
    model, hook = load(tmp_path, {**QWEN3_OPTIONS, "initializer_range": 0.8}, **QWEN3)
    config = SimpleNamespace(**EXPERTS, hidden_size=32, intermediate_size=24, swiglu_alpha=1.702,
                             swiglu_limit=3.0, _experts_implementation="eager")  # fmt: skip
    for layer in layers(model):
        layer.mlp.experts = make(GptOssExperts, config)
        randomize(layer.mlp.experts, 0.8)
    tokens = tokens_of(LENGTH)
    assert_close(logits(CompiledProgram(model, hook, 2), tokens), reference(model, tokens))


@on_each_set
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_whatever_the_batch_the_cuts_and_the_threads(
    tmp_path: Path, kind: tuple[Dtype, Quantization | None]
) -> None:
    options = {**QWEN3_OPTIONS, "num_local_experts": 40, "num_experts_per_tok": 5}
    assert_same(tmp_path, 301, 295, kind, options, **QWEN3)


@on_each_set
def test_threads_that_lag_behind(tmp_path: Path) -> None:
    """A thread that was suspended comes back when others are layers ahead, where other experts are
    in use: with many more threads than processors that happens all the time."""
    options = {**QWEN3_OPTIONS, "num_local_experts": 40, "num_hidden_layers": 6}
    model, hook = load(tmp_path, options, **QWEN3)
    tokens, blocks = tokens_of(8), blocks_of(8)
    expected = run(CompiledProgram(model, hook, 1).start(1, 16), [(tokens, 0, 8, blocks)])
    program = CompiledProgram(model, hook, 12).start(1, 16)
    for _ in range(150):
        assert torch.equal(run(program, [(tokens, 0, 8, blocks)]), expected)


@on_each_set
@pytest.mark.parametrize("kind", KINDS[:2], ids=str)
@pytest.mark.parametrize("name", ["gpt_oss", "deepseek_v3"])
def test_sinks_and_latent_keys_in_any_batch(
    tmp_path: Path, name: str, kind: tuple[Dtype, Quantization | None]
) -> None:
    config, model, options = TINY[name]
    assert_same(tmp_path, 701, 695, kind, options, config=config, model=model)


@on_each_set
@pytest.mark.parametrize("window", [None, 100])
def test_sinks_over_long_texts(tmp_path: Path, window: int | None) -> None:
    """Sinks above all scores, and far below them."""
    config, name, options = TINY["gpt_oss"]
    kinds = ["sliding_attention" if window else "full_attention"] * 2
    options = {**options, "layer_types": kinds, "sliding_window": window or 128}
    model, hook = load(tmp_path, options, config=config, model=name)
    for layer in layers(model):
        layer.self_attn.sinks.data = torch.tensor([30.0, -200.0, 0.5, 3.0])
    tokens = tokens_of(LENGTH * 4)
    expected = reference(model, tokens)
    program, blocks = CompiledProgram(model, hook, 2).start(30, 16), blocks_of(len(tokens))
    parts = ((0, 300), (300, 359), (359, 360))
    found = [run(program, [(tokens, start, end, blocks)]) for start, end in parts]
    assert_close(torch.cat(found), expected)


@on_each_set
def test_rows_with_one_expert_each(tmp_path: Path) -> None:
    """There are as many pairs as rows, in another order."""
    model, hook = load(tmp_path, {**QWEN3_OPTIONS, "num_experts_per_tok": 1}, **QWEN3)
    tokens = tokens_of(LENGTH)
    assert_close(logits(CompiledProgram(model, hook, 3), tokens), reference(model, tokens))


@on_each_set
def test_only_experts_in_use_are_read(tmp_path: Path) -> None:
    options = {**QWEN3_OPTIONS, "num_local_experts": 64, "num_experts_per_tok": 2}
    model, hook = load(tmp_path, options, **QWEN3)
    tokens = tokens_of(6)
    chosen: list[set[int]] = []
    handles = [
        layer.mlp.gate.register_forward_hook(
            lambda module, x, outputs: chosen.append(set(outputs[2].flatten().tolist()))
        )
        for layer in layers(model)
    ]
    expected = reference(model, tokens)
    for handle in handles:
        handle.remove()
    for layer, used in zip(layers(model), chosen, strict=True):
        assert 2 <= len(used) <= 12
        unused = [number for number in range(64) if number not in used]
        layer.mlp.experts.gate_up_proj.data[unused] = float("nan")
        layer.mlp.experts.down_proj.data[unused] = float("nan")
    program = CompiledProgram(model, hook, 2).start(1, 16)
    assert_close(run(program, [(tokens, 0, 6, [0])]), expected)


@on_each_set
def test_rows_that_are_no_numbers_harm_no_others(tmp_path: Path) -> None:
    model, hook = load(tmp_path, QWEN3_OPTIONS, **QWEN3)
    bad = 7
    text = [t if t != bad else 8 for t in tokens_of(40)]
    expected = reference(model, text)
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, torch.nn.Embedding)
    embedding.weight.data[bad] = float("nan")
    program = CompiledProgram(model, hook, 2).start(10, 16)
    found = run(program, [([bad] * 70, 0, 70, blocks_of(70)), (text, 0, 40, blocks_of(40, 5))])
    assert found[:70].isnan().all()
    assert_close(found[70:], expected)


@on_each_set
@pytest.mark.parametrize(("quantization", "limit"), [("q8_0", 0.1), ("q4_0", 0.5)])
@pytest.mark.parametrize("chosen", [1, 3])
def test_experts_in_blocks(
    tmp_path: Path, quantization: Quantization, limit: float, chosen: int
) -> None:
    """They are rounded as other weights are, but a row whose choice is near may choose others."""
    options = {**QWEN3_OPTIONS, "hidden_size": 96, "moe_intermediate_size": 40}
    options |= {"initializer_range": 0.1, "num_experts_per_tok": chosen}
    model, hook = load(tmp_path, options, "bfloat16", **QWEN3)
    tokens = tokens_of(LENGTH)
    compiled = CompiledProgram(model, hook, 2, quantization)
    plain = logits(CompiledProgram(model, hook, 2), tokens)
    errors = (logits(compiled, tokens) - plain).square().mean(-1).sqrt() / plain.std()
    assert 0 < errors.median() < limit
    assert compiled.weight_bytes < 0.8 * sum(2 * weight.numel() for weight in model.parameters())


@on_each_set
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", ["int8", "int8_dynamic"])
def test_experts_of_8_bits(tmp_path: Path, quantization: Quantization, dtype: Dtype) -> None:
    """Against transformers with the experts' rounded weights put back; routers stay as they are."""
    options = {**QWEN3_OPTIONS, "hidden_size": 96, "moe_intermediate_size": 72}
    model, hook = load(tmp_path, {**options, "initializer_range": 0.1}, dtype, **QWEN3)
    tokens = tokens_of(LENGTH)
    compiled = CompiledProgram(model, hook, 2, quantization)
    ours = logits(compiled, tokens)
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    assert compiled.weight_bytes < 0.62 * weights
    for module in model.modules():
        stacked = [p for p in module.parameters(recurse=False) if p.ndim == 3]
        plain = [module.weight] if isinstance(module, torch.nn.Linear) else []
        for weight in (*(matrix for tensor in stacked for matrix in tensor), *plain):
            weight.data.copy_(dequantize_weight(*quantize_weight(weight.data)))
    rounded = reference(model, tokens)
    errors = (ours - rounded).square().mean(-1).sqrt() / rounded.std()
    # By rounding alone a row may choose other experts.
    tolerance = {"int8": {"float32": 1e-4, "bfloat16": 0.1}[dtype], "int8_dynamic": 0.15}
    assert errors.median() < tolerance[quantization]
