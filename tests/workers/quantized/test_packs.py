"""A model is served from the packed integers of its safetensors, and computes what they hold."""

from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.protocol.config import EngineConfig
from headrace.workers.build import build_engine
from headrace.workers.torch_runner.loading import load_model
from headrace.workers.quantized.parameter import PackedParameter
from headrace.workers.quantized.tensor import quantized_of
from tests.workers.driving import request, run
from tests.workers.processors import needs_kernels
from tests.workers.tiny_packs import save_pack

IDS = torch.tensor([[1, 5, 9, 120, 7, 7, 31]])
# name: (method, options, format of the layers)
PACKS: dict[str, tuple[str, dict[str, Any], str]] = {
    "gptq": ("gptq", {}, "q4_0"),
    "gptq of 128 inputs": ("gptq", {"group": 128}, "q4_0"),
    "gptq of channels": ("gptq", {"group": -1}, "q4_0"),
    "gptq with zero points": ("gptq", {"symmetric": False}, "q4_1"),
    "gptq, version 2": (
        "gptq", {"symmetric": False, "quantization": {"checkpoint_format": "gptq_v2"}}, "q4_1",
    ),
    "gptq of 8 bits": ("gptq", {"bits": 8}, "q8_0"),
    "gptq of 3 bits": ("gptq", {"bits": 3}, "q4_0"),
    "gptq of 2 bits": ("gptq", {"bits": 2, "symmetric": False}, "q4_1"),
    "awq": ("awq", {"symmetric": False, "group": 64}, "q4_1"),
    "w4a16": ("pack-quantized", {"scale_dtype": torch.bfloat16, "group": 128}, "q4_0"),
    "w4a16 with zero points": ("pack-quantized", {"symmetric": False}, "q4_1"),
    "w4a16 of channels": ("pack-quantized", {"group": -1}, "q4_0"),
    "w8a16": ("pack-quantized", {"bits": 8, "group": -1}, "q8_0"),
    "w8a8": ("int-quantized", {"bits": 8, "group": -1}, "q8_0"),
}  # fmt: skip


def loaded(folder: Path, dtype: str = "float32") -> Any:
    return load_model(folder, dtype, torch.device("cpu"))  # type: ignore[arg-type]


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits  # type: ignore[no-any-return]


def formats(model: Any) -> set[str]:
    packed = [p for p in model.parameters() if isinstance(p, PackedParameter)]
    return {weight.format for weight in map(quantized_of, packed) if weight is not None}


@pytest.mark.parametrize("name", PACKS)
def test_it_computes_what_the_folder_holds(tmp_path: Path, name: str) -> None:
    method, options, expected = PACKS[name]
    reference = save_pack(tmp_path, method, **options)
    model = loaded(tmp_path)
    # A minimum is a scale times a zero point, in 16 bits.
    tolerance = 5e-3 if expected == "q4_1" else 1e-4
    torch.testing.assert_close(logits(model), logits(reference), rtol=0, atol=tolerance)
    assert formats(model) == {expected}
    assert sum(isinstance(p, PackedParameter) for p in model.parameters()) == 14
