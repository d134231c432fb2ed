"""Replaced linear layers: the model's text stays, siblings are computed once, memory is freed."""

import gc
import weakref
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from headrace.protocol.config import Dtype, EngineConfig
from headrace.workers.errors import ModelUnsupported
from headrace.workers.linear import linears, products
from headrace.workers.linear.fusion import FusedProduct, find_groups, watch
from headrace.workers.linear.linears import FastLinear, prepare_linears
from headrace.workers.linear.products import PackedProduct, Product, can_pack, make_product
from headrace.workers.torch_runner.loading import load_model
from tests.workers.processors import PACKED, needs_int8
from tests.workers.tiny_models import MODELS, save_model, save_tiny

CPU = torch.device("cpu")
TOKENS = torch.arange(3, 27).unsqueeze(0)
needs_packed_bfloat16 = pytest.mark.skipif(
    not can_pack(torch.bfloat16), reason="torch packs bfloat16 only where there is AVX-512"
)


def prepare(model: Any, quantization: str | None = None) -> list[str]:
    lines: list[str] = []
    prepare_linears(model, EngineConfig(quantization=quantization), lines.append)
    return lines


@torch.inference_mode()
def logits(
    model: PreTrainedModel,
) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=TOKENS, use_cache=False).logits[0].float()
    return found


def change(before: torch.Tensor, after: torch.Tensor) -> float:
    """Root mean square of the change over the spread, at the median token."""
    errors = (after - before).square().mean(dim=1).sqrt() / before.std(dim=1)
    return float(errors.median())


@pytest.mark.parametrize(
    ("dtype", "quantization", "bound"),
    [
        ("float32", None, 1e-5),
        ("bfloat16", None, 0.05),
        pytest.param("bfloat16", "int8", 0.1, marks=needs_int8),
        pytest.param("bfloat16", "int8_dynamic", 0.15, marks=needs_int8),
        pytest.param("float16", "int8", 0.05, marks=needs_int8),
        ("float32", "q5_1", 0.3),
    ],
)
@pytest.mark.parametrize("name", list(MODELS))
def test_logits_stay(
    tmp_path: Path, name: str, dtype: Dtype, quantization: str | None, bound: float
) -> None:
    save_tiny(tmp_path, name)
    model = load_model(tmp_path, dtype, CPU)
    before = logits(model)
    prepare(model, quantization)
    after = logits(model)
    assert change(before, after) < bound
    assert torch.equal(after, logits(model)), "nothing may be left over from one pass to the next"
    if quantization is not None:
        assert not torch.equal(before, after)


def test_siblings_are_found_by_what_they_read(tmp_path: Path) -> None:
    save_tiny(tmp_path, "qwen2")
    model = load_model(tmp_path, PACKED, CPU)
    prepare(model)
    layer = model.model.layers[0]
    attention, mlp = layer.self_attn, layer.mlp
    together = {id(one._siblings) for one in (attention.q_proj, attention.k_proj, attention.v_proj)}
    assert len(together) == 1
    assert mlp.gate_proj._siblings is mlp.up_proj._siblings
    assert len({id(one._siblings) for one in (mlp.gate_proj, mlp.down_proj, attention.o_proj)}) == 3
    assert attention.q_proj._siblings is not model.model.layers[1].self_attn.q_proj._siblings


class Reader(nn.Module):
    """Layers on one tensor, with what must keep them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(8, 16) for _ in range(3))
        self.twice = nn.Linear(8, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = self.first(x) + self.second(x) + self.twice(x) + self.twice(x)
        x += 1
        found: torch.Tensor = total + self.third(x) + self.second.in_features
        return found


def test_written_inputs_and_repeated_layers_are_not_fused() -> None:
    reader = Reader()
    layers = [reader.first, reader.second, reader.third, reader.twice]
    with torch.no_grad(), watch(layers) as calls:
        reader(torch.randn(2, 8))
    assert find_groups(calls, lambda _: 0) == [
        [reader.first, reader.second],
        [reader.third],
        [reader.twice],
    ]
    assert find_groups(calls, lambda layer: layer is reader.first)[:2] == [
        [reader.first],
        [reader.second],
    ]


SIZES = [3, 5, 2]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.booleans()), max_size=30))
def test_shares_are_right_in_every_order_of_calls(calls: list[tuple[int, int, bool]]) -> None:
    """Also when tensors die and others take their place, and when a call is repeated."""
    weight = torch.randn((sum(SIZES), 4), generator=torch.Generator().manual_seed(1))
    siblings = FusedProduct(cast(Product, lambda rows: functional.linear(rows, weight)), SIZES)
    tensors = [torch.randn(2, 4) for _ in range(4)]
    for number, which, renew in calls:
        if renew:
            tensors[which] = torch.randn(2, 4)
        share = siblings.share_of(number, tensors[which])
        whole = functional.linear(tensors[which], weight)
        assert torch.equal(share, torch.split(whole, SIZES, dim=-1)[number])


def test_siblings_compute_once_and_let_go() -> None:
    computed: list[int] = []

    def product(rows: torch.Tensor) -> torch.Tensor:
        computed.append(1)
        return torch.cat([rows] * 3, dim=-1)

    siblings = FusedProduct(cast(Product, product), [4] * 3)
    rows = torch.randn(2, 4)
    for number in (1, 0, 2):
        assert torch.equal(siblings.share_of(number, rows), rows)
    assert len(computed) == 1
    gone = weakref.ref(rows)
    del rows
    gc.collect()
    assert gone() is None


def test_weights_are_freed(tmp_path: Path) -> None:
    save_tiny(tmp_path, "mistral")
    model = load_model(tmp_path, PACKED, CPU)
    weights = [
        weakref.ref(module.weight) for module in model.modules() if isinstance(module, nn.Linear)
    ]
    prepare(model)
    gc.collect()
    assert len(weights) == 15
    assert [weight() for weight in weights] == [None] * 15


@needs_int8
def test_tied_embeddings_keep_their_weight(tmp_path: Path) -> None:
    config, model_class, options = MODELS["llama"]
    save_model(tmp_path, config, model_class, {**options, "tie_word_embeddings": True})
    model = load_model(tmp_path, "bfloat16", CPU)
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, torch.nn.Embedding)
    before = embedding.weight.clone()
    prepare(model, "int8")
    assert isinstance(model.lm_head, FastLinear)
    after = model.get_input_embeddings()
    assert isinstance(after, torch.nn.Embedding)
    assert torch.equal(after.weight, before)


def test_a_replaced_layer_tells_its_weights_dtype_and_shape(tmp_path: Path) -> None:
    save_tiny(tmp_path, "llama")
    model = load_model(tmp_path, PACKED, CPU)
    shape = model.model.layers[0].mlp.up_proj.weight.shape
    prepare(model)
    weight = model.model.layers[0].mlp.up_proj.weight
    assert (weight.dtype, weight.device, weight.shape) == (getattr(torch, PACKED), CPU, shape)
    assert weight.isnan().all()
    assert weight.untyped_storage().nbytes() == weight.element_size()


def test_models_that_cannot_take_gaps_are_not_fused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny(tmp_path, "mistral")
    model = load_model(tmp_path, PACKED, CPU)
    before = logits(model)
    mlp = model.model.layers[0].mlp

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        gated = self.act_fn(self.gate_proj(x)) * self.up_proj(x).view(-1).view(*x.shape[:-1], -1)
        found: torch.Tensor = self.down_proj(gated)
        return found

    monkeypatch.setattr(type(mlp), "forward", forward)
    prepare(model)
    assert isinstance(mlp.gate_proj, FastLinear)
    assert mlp.gate_proj._siblings is not mlp.up_proj._siblings
    assert change(before, logits(model)) < 0.05


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [
        (torch.float32, None),
        (torch.float32, "q8_0"),
        (torch.float16, "q8_0"),
        pytest.param(torch.bfloat16, None, marks=needs_packed_bfloat16),
        *(
            pytest.param(dtype, quantization, marks=needs_int8)
            for dtype in (torch.float32, torch.bfloat16)
            for quantization in ("int8", "int8_dynamic")
        ),
    ],
)
def test_products_take_any_shape(dtype: torch.dtype, quantization: str | None, bias: bool) -> None:
    torch.manual_seed(0)
    weight, added = torch.randn(24, 40, dtype=dtype), torch.randn(24, dtype=dtype)
    product = make_product(weight, added if bias else None, quantization)
    assert product is not None
    for shape in [(40,), (0, 40), (1, 40), (1, 7, 40), (2, 3, 40)]:
        rows = torch.randn(shape, dtype=dtype)
        expected = functional.linear(rows, weight, added if bias else None)
        assert product(rows).shape == expected.shape
        assert product(rows).dtype == dtype
        torch.testing.assert_close(product(rows), expected, rtol=0.05, atol=0.3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_dtype_that_cannot_be_packed_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Dtype
) -> None:
    """As bfloat16 on a processor without AVX-512."""
    monkeypatch.setattr(products, "can_pack", lambda dtype: dtype == torch.float32)
    save_tiny(tmp_path, "llama")
    model = load_model(tmp_path, dtype, CPU)
    before = logits(model)
    assert prepare(model) == []
    assert not any(isinstance(module, FastLinear) for module in model.modules())
    assert torch.equal(logits(model), before)


@pytest.mark.skipif(can_pack(torch.bfloat16), reason="this processor packs bfloat16")
def test_without_avx512_bfloat16_is_not_packed() -> None:
    assert make_product(torch.randn(24, 40, dtype=torch.bfloat16), None, None) is None


def test_conv1d_is_replaced_too(tmp_path: Path) -> None:
    save_tiny(tmp_path, "gpt2")
    model = load_model(tmp_path, PACKED, CPU)
    prepare(model)
    assert not any(isinstance(module, (Conv1D, nn.Linear)) for module in model.modules())


def test_a_wrong_packed_product_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny(tmp_path, "llama")
    model = load_model(tmp_path, PACKED, CPU)
    call = PackedProduct.__call__
    monkeypatch.setattr(PackedProduct, "__call__", lambda self, rows: call(self, rows) * 1.1)
    assert prepare(model) == []
    assert not any(isinstance(module, FastLinear) for module in model.modules())


def test_a_wrong_integer_product_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny(tmp_path, "llama")
    model = load_model(tmp_path, "bfloat16", CPU)
    wrong = {**products.INT8_PRODUCTS, "int8": lambda rows, values, _: rows @ values.t().to(rows)}
    monkeypatch.setattr(products, "INT8_PRODUCTS", wrong)
    with pytest.raises(ModelUnsupported, match="quantization is int8, but"):
        prepare(model, "int8")


def test_other_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny(tmp_path, "llama")
    model = load_model(tmp_path, PACKED, CPU)
    monkeypatch.setattr(
        linears.FastLinear,
        "forward",
        lambda self, input: input[..., :1].expand(*input.shape[:-1], len(self.weight)),
    )
    with pytest.raises(ModelUnsupported, match="different text with packed weights"):
        prepare(model)


def test_quantization_is_refused_away_from_cpus(tmp_path: Path) -> None:
    save_tiny(tmp_path, "llama")
    model = load_model(tmp_path, "bfloat16", CPU)
    model.to("meta")  # type: ignore[arg-type]
    prepare(model)
    with pytest.raises(ModelUnsupported, match="quantization is int8, which needs device cpu"):
        prepare(model, "int8")
