"""Modules of sentence-transformers after pooling: layers, norms, and routes by kinds of texts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, T5Config, T5EncoderModel, T5ForConditionalGeneration

from headrace.workers.errors import ModelUnsupported
from headrace.workers.pooling.engine import PoolingEngine
from tests.workers.pooling.driving import encode, numbers, run
from tests.workers.pooling.test_encoders import engine_of, save, texts

SIZE = 32


def write(folder: Path, name: str, value: object) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(value))


def save_layer(folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with a linear layer for queries and a norm for documents."""
    folder = tmp_path_factory.mktemp("routed")
    save(folder, "bert")
    write(folder, "1_Pooling/config.json", {"pooling_mode": "mean"})
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Router": "Router", "3_": "Normalize"}
    modules = [{"path": path, "type": f"a.{kind}"} for path, kind in kinds.items()]
    write(folder, "modules.json", modules)
    types = {"query_0_Dense": "a.Dense", "document_0_LayerNorm": "a.LayerNorm"}
    lists = {"query": ["query_0_Dense"], "document": ["document_0_LayerNorm"]}
    router = {"types": types, "structure": lists, "parameters": {"default_route": "document"}}
    write(folder, "2_Router/router_config.json", router)
    dense, norm = (folder / "2_Router" / name for name in types)
    write(dense, "config.json", {"in_features": SIZE, "out_features": SIZE})
    write(norm, "config.json", {"dimension": SIZE})
    torch.manual_seed(2)
    save_layer(dense, {"linear.weight": torch.randn(SIZE, SIZE), "linear.bias": torch.randn(SIZE)})
    save_layer(norm, {"norm.weight": torch.randn(SIZE), "norm.bias": torch.randn(SIZE)})
    return folder


def embeddings(engine: PoolingEngine, inputs: list[list[int]], route: str) -> list[np.ndarray]:
    requests = [encode(f"{route}{n}", ids, route=route) for n, ids in enumerate(inputs)]
    found = run(engine, requests)
    return [numbers(found[request.request_id].pooled) for request in requests]


def test_routes_have_layers_of_their_own(model: Path) -> None:
    engine, inputs = engine_of(model), texts()
    reference = AutoModel.from_pretrained(model).eval()
    dense = torch.nn.Linear(SIZE, SIZE)
    norm = torch.nn.LayerNorm(SIZE)
    for layer, name in ((dense, "query_0_Dense"), (norm, "document_0_LayerNorm")):
        saved = load_file(model / "2_Router" / name / "model.safetensors")
        layer.load_state_dict({key.rpartition(".")[2]: value for key, value in saved.items()})
    with torch.no_grad():
        means = [reference(torch.tensor([ids])).last_hidden_state[0].mean(dim=0) for ids in inputs]
        queries = [functional.normalize(torch.tanh(dense(mean)), dim=0) for mean in means]
        documents = [functional.normalize(norm(mean), dim=0) for mean in means]
    for route, wanted in (("query", queries), ("document", documents), ("", documents)):
        for found, expected in zip(embeddings(engine, inputs, route), wanted, strict=True):
            np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_a_layer_without_its_weights(model: Path, tmp_path: Path) -> None:
    save(tmp_path, "bert")
    write(tmp_path, "1_Pooling/config.json", {"pooling_mode": "mean"})
    modules = [{"path": "", "type": "Transformer"}, {"path": "1_Pooling", "type": "Pooling"}]
    write(tmp_path, "modules.json", [*modules, {"path": "2_LayerNorm", "type": "LayerNorm"}])
    write(tmp_path, "2_LayerNorm/config.json", {"dimension": SIZE})
    with pytest.raises(ModelUnsupported, match=r"has no model\.safetensors"):
        engine_of(tmp_path)
    save_layer(tmp_path / "2_LayerNorm", {"norm.weight": torch.randn(SIZE)})
    with pytest.raises(ModelUnsupported, match=r"no norm\.bias of the shape"):
        engine_of(tmp_path)


def test_of_t5_only_the_encoder_runs(tmp_path: Path) -> None:
    config = T5Config(vocab_size=120, d_model=SIZE, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    config.decoder_start_token_id = 0
    torch.manual_seed(3)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    write(tmp_path, "tokenizer_config.json", {"model_max_length": 128})
    write(tmp_path, "1_Pooling/config.json", {"pooling_mode": "mean"})
    modules = [{"path": "", "type": "Transformer"}, {"path": "1_Pooling", "type": "Pooling"}]
    write(tmp_path, "modules.json", modules)
    inputs = texts()
    found = embeddings(engine_of(tmp_path), inputs, "")
    reference = T5EncoderModel.from_pretrained(tmp_path)
    reference.train(False)
    for vector, ids in zip(found, inputs, strict=True):
        with torch.no_grad():
            wanted = reference(torch.tensor([ids])).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(vector, wanted.numpy(), atol=1e-4)
