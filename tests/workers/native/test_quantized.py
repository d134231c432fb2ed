"""Products with weights in quantized blocks, and programs of models that have them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headrace.protocol.config import Dtype, Quantization
from headrace.workers.native.library import (
    PANEL_OUTPUTS,
    Kernels,
    load_library,
    require_kernels,
    usable_kernels,
)
from headrace.workers.native.program import CompiledProgram
from headrace.workers.native.weight_format import WeightFormat
from headrace.workers.quantized.encode import ENCODERS, quantize
from headrace.workers.quantized.formats import BLOCK, BLOCK_FORMATS
from headrace.workers.quantized.panels import pack_panels, panel_bytes
from headrace.workers.quantized.tensor import QuantizedTensor, attach_quantized
from tests.workers.native.test_native import (
    SHAPES,
    blocks_of,
    load,
    reference,
    run,
    tokens_of,
)
from tests.workers.processors import needs_kernels, on_each_set
from tests.workers.quantized.test_tensor import random_bytes

OUTPUTS, ROWS = 96, 19


def libraries() -> Iterator[Kernels]:
    """The kernels for each instruction set that runs here."""
    for name in usable_kernels():
        library = load_library(name)
        assert library is not None
        yield library


def packed(weight: QuantizedTensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    outputs, inputs = weight.shape
    size = panel_bytes(weight.format, inputs // BLOCK)
    panels = np.zeros((outputs // PANEL_OUTPUTS, size), np.uint8)
    pack_panels(weight.blocks(0, outputs), panels)
    return panels


def product(kernels: Kernels, weight: QuantizedTensor, rows: torch.Tensor) -> torch.Tensor:
    outputs, inputs = weight.shape
    panels, number = packed(weight), WeightFormat[weight.format.upper()] - WeightFormat.Q8_0
    rounded = np.zeros(kernels.round_rows(None, len(rows), inputs, None), np.uint8)
    kernels.round_rows(rows.contiguous().data_ptr(), len(rows), inputs, rounded.ctypes.data)
    out = torch.full((len(panels), len(rows), PANEL_OUTPUTS), float("nan"))
    kernels.multiply_quantized(
        number, rounded.ctypes.data, len(rows), panels.ctypes.data, len(panels), inputs // BLOCK,
        out.data_ptr(),
    )  # fmt: skip
    return out.transpose(0, 1).reshape(len(rows), outputs)


def rounded_rows(rows: torch.Tensor) -> torch.Tensor:
    """The rows as the kernels round them: each 32 numbers to multiples of their largest / 127."""
    blocks = rows.view(len(rows), -1, BLOCK)
    scales = blocks.abs().amax(dim=-1, keepdim=True) / 127
    return ((blocks * (1 / scales)).round().double() * scales.double()).view(rows.shape)


@needs_kernels
@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_products_are_those_of_the_dequantized_weight(name: str) -> None:
    inputs = 768 if BLOCK_FORMATS[name].has_super_scales else 736  # more than a part of a panel
    weight = QuantizedTensor(name, (OUTPUTS, inputs), random_bytes(name, OUTPUTS, inputs))
    rows = torch.randn((ROWS, inputs), generator=torch.Generator().manual_seed(1))
    rows *= torch.logspace(-3, 3, ROWS)[:, None]
    numbers = weight.dequantize().double()
    expected, exact = rounded_rows(rows) @ numbers.t(), rows.double() @ numbers.t()
    spread = expected.std(dim=1, keepdim=True)
    for kernels in libraries():
        size = kernels.quantized_panel_bytes(WeightFormat[name.upper()] - 3, inputs // BLOCK)
        assert size == panel_bytes(name, inputs // BLOCK)
        assert size <= 1.06 * weight.nbytes * PANEL_OUTPUTS / OUTPUTS  # as in the file, almost
        found = product(kernels, weight, rows)
        assert ((found - expected) / spread).abs().max() < 3e-6, kernels.name
        assert ((found - exact) / spread).square().mean().sqrt() < 0.008
        for row in range(ROWS):  # to the last bit
            alone = product(kernels, weight, rows[row : row + 1])[0]
            assert torch.equal(alone, found[row]), kernels.name
        assert torch.equal(product(kernels, weight, rows[:5]), found[:5])


@needs_kernels
def test_greatest_sums_are_exact() -> None:
    """Codes and rows of greatest magnitude overflow no sum on the way."""
    for name, spec in BLOCK_FORMATS.items():
        inputs = 256
        data = np.full((OUTPUTS, panel_row(name, inputs)), 255, np.uint8)
        blocks = data.reshape(OUTPUTS, -1, spec.num_bytes)
        starts = {"q6_k": [208], "mxfp4": []}.get(name, [0, 2] if spec.has_minimums else [0])
        for start in starts:
            blocks[..., start : start + 2] = np.frombuffer(np.float16(0.5).tobytes(), np.uint8)
        if name == "mxfp4":
            blocks[..., 0] = 127
        if name == "q8_m":
            blocks[..., 4:] = 127  # signed
        weight = QuantizedTensor(name, (OUTPUTS, inputs), data)
        rows = torch.tensor([1.0, -1.0])[:, None].expand(2, inputs).contiguous()
        rows[1, ::2] = 1.0
        expected = rounded_rows(rows) @ weight.dequantize().double().t()
        scale = weight.dequantize().abs().sum(dim=1).max()
        for kernels in libraries():
            found = product(kernels, weight, rows)
            assert ((found - expected) / scale).abs().max() < 1e-6, (name, kernels.name)


def panel_row(name: str, inputs: int) -> int:
    spec = BLOCK_FORMATS[name]
    return inputs // spec.inputs * spec.num_bytes


@on_each_set
def test_a_nan_stays_one_and_zeros_are_no_nan() -> None:
    weight = QuantizedTensor("q4_k", (OUTPUTS, 256), random_bytes("q4_k", OUTPUTS, 256))
    rows = torch.zeros((3, 256))
    rows[1, 40] = float("nan")
    rows[2, 3] = 1e-38
    found = product(require_kernels(), weight, rows)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], torch.zeros((2, OUTPUTS)))


MODEL = {"hidden_size": 256, "intermediate_size": 512, "initializer_range": 0.1}


def rounded_model(folder: Path, formats: dict[str, str], **options: Any) -> tuple[Any, Any, Any]:
    """A model with its weights in blocks, its hook, and the same with the numbers of those."""
    model, hook = load(folder, {**MODEL, **options})
    expected, _ = load(folder, {**MODEL, **options})
    theirs = dict(expected.named_parameters())
    for name, parameter in model.named_parameters():
        key = next((key for key in formats if key in name), None)
        if key is None or parameter.ndim < 2:
            continue
        outputs, inputs = parameter.shape
        if formats[key] in ENCODERS:
            weight = quantize(formats[key], parameter)
        else:
            data = random_bytes(formats[key], outputs, inputs)
            weight = QuantizedTensor(formats[key], (outputs, inputs), data)
        attach_quantized(parameter, weight)
        parameter.data = torch.full((), float("nan")).expand(outputs, inputs)
        theirs[name].data = weight.dequantize()
    return model, hook, expected


MIXED = {
    "q_proj": "q4_k", "k_proj": "q4_k", "v_proj": "q6_k", "o_proj": "q5_k", "gate_proj": "q4_1",
    "up_proj": "iq4_nl", "down_proj": "q5_0", "embed_tokens": "q8_0", "lm_head": "q6_k",
}  # fmt: skip
ALIKE = {"_proj": "q4_k", "embed_tokens": "q6_k"}  # whose gates and partners are one product
FLOATS = {"_proj": "q5_1", "o_proj": "bf16"}


@on_each_set
@pytest.mark.parametrize(
    ("formats", "options"),
    [
        (MIXED, {"attention_bias": True, "mlp_bias": True}),
        (ALIKE, {"tie_word_embeddings": True}),
        ({"lm_head": "f16", "embed_tokens": "f16", "_proj": "q8_0"}, {}),
    ],
    ids=["mixed", "alike", "floats"],
)
def test_files_weights_are_multiplied_as_they_are(
    tmp_path: Path, formats: dict[str, str], options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    model, hook, expected = rounded_model(tmp_path, formats, **options)
    tokens = tokens_of(60)
    program = CompiledProgram(model, hook, 2).start(8, 16)
    found = run(program, [(tokens, 0, 60, blocks_of(60))])
    difference = (found - reference(expected, tokens)).square().mean().sqrt()
    assert difference / found.std() < 0.06


@on_each_set
@pytest.mark.parametrize("quantization", ENCODERS)
def test_a_quantized_model_is_near_one_with_rounded_weights(
    tmp_path: Path, quantization: Quantization
) -> None:
    options = {**MODEL, "hidden_size": 104, "attention_bias": True}  # no whole blocks
    dtype: Dtype = "bfloat16"
    model, hook = load(tmp_path, options, dtype)
    expected, _ = load(tmp_path, options)
    for path, module in expected.named_modules():
        if isinstance(module, torch.nn.Linear):
            name = "q8_0" if path == "lm_head" else quantization
            module.weight.data = quantize(name, module.weight.bfloat16()).dequantize()
    tokens = tokens_of(60)
    program = CompiledProgram(model, hook, 2, quantization).start(8, 16)
    found = run(program, [(tokens, 0, 60, blocks_of(60))])
    difference = (found - reference(expected, tokens)).square().mean().sqrt()
    assert difference / found.std() < 0.04


@on_each_set
@pytest.mark.parametrize("shape", ["deep and odd", "biases", "tied"])
def test_long_texts_in_uneven_chunks(tmp_path: Path, shape: str) -> None:
    model, hook = load(tmp_path, {**SHAPES[shape], "initializer_range": 0.1})
    tokens = tokens_of(701)
    program = CompiledProgram(model, hook, 3, "q8_0").start(50, 16)
    blocks = blocks_of(len(tokens))
    cuts = ((0, 3), (3, 623), (623, 699), (699, 700), (700, 701))
    found = torch.cat([run(program, [(tokens, *cut, blocks)]) for cut in cuts])
    expected = reference(model, tokens)
    assert (found - expected).square().mean().sqrt() / expected.std() < 0.05
