"""Models with a vector for each token alone: a linear layer over transformers' own vectors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from headrace.workers.errors import ModelUnsupported, RejectedByEngine
from headrace.workers.pooling.engine import PoolingEngine
from tests.workers.pooling.driving import encode, numbers, run
from tests.workers.pooling.test_encoders import engine_of, save, texts, write_modules

WEIGHT = torch.randn(8, 32, generator=torch.Generator().manual_seed(4)) * 0.2


def check(engine: PoolingEngine, folder: Path) -> None:
    assert engine.tasks == ("token_embed",)
    reference = AutoModel.from_pretrained(folder).eval()
    for ids in texts(1):
        with torch.inference_mode():
            rows = reference(torch.tensor([ids])).last_hidden_state[0] @ WEIGHT.T
        found = run(engine, [encode("raw", ids, "token_embed", activates=False)])["raw"].pooled
        assert np.abs(numbers(found) - rows.double().numpy()).max() < 1e-4
        wanted = (rows / rows.norm(dim=-1, keepdim=True)).double().numpy()
        found = run(engine, [encode("a", ids, "token_embed")])["a"].pooled
        assert np.abs(numbers(found) - wanted).max() < 1e-4
    query = run(engine, [encode("q", [7, 8, 9], "token_embed")])["q"].pooled
    assert query is not None
    request = encode("c", ids, "token_embed", compared_with=query.data)
    found = run(engine, [request])["c"].pooled
    products = numbers(query) @ wanted.T
    assert float(numbers(found)[0]) == pytest.approx(products.max(axis=1).sum(), abs=1e-4)
    for wrong in ({"compared_with": query.data[:-4]}, {"number_format": "float16"}):
        with pytest.raises(RejectedByEngine, match=r"^compared_with"):
            engine.add(structs.replace(request, **wrong))


@pytest.mark.parametrize("kinds", [["Transformer", "Dense"], ["Transformer", "Dense", "Normalize"]])
def test_modules_without_pooling(kinds: list[str], tmp_path: Path) -> None:
    save(tmp_path, "bert")
    write_modules(tmp_path, kinds, {})
    dense = {"in_features": 32, "out_features": 8, "bias": False}
    dense["activation_function"] = "torch.nn.modules.linear.Identity"  # type: ignore[assignment]
    (tmp_path / "1_Dense" / "config.json").write_text(json.dumps(dense))
    save_file({"linear.weight": WEIGHT}, tmp_path / "1_Dense" / "model.safetensors")
    check(engine_of(tmp_path), tmp_path)


def test_the_form_of_colberts_authors(tmp_path: Path) -> None:
    save(tmp_path, "bert", architectures=["HF_ColBERT"])
    file = tmp_path / "model.safetensors"
    weights = {f"bert.{name}": weight for name, weight in load_file(file).items()}
    with pytest.raises(ModelUnsupported, match=r"linear\.weight"):
        engine_of(tmp_path)
    save_file({**weights, "linear.weight": WEIGHT}, file, metadata={"format": "pt"})
    check(engine_of(tmp_path), tmp_path)
