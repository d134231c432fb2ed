"""GGUF files that pool: encoders, of which transformers reads no such files, and decoders."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel, BertTokenizer

from headrace.launcher.models.model_folder import ModelError
from headrace.launcher.models.prepare_model import PreparedModel, PrepareOptions, prepare_model
from headrace.protocol.config import EngineConfig
from headrace.workers.errors import ModelUnsupported
from headrace.workers.native.library import usable_kernels
from headrace.workers.pooling.engine import PoolingEngine
from tests.workers.pooling.driving import encode, numbers, run
from tests.workers.pooling.test_encoders import engine_of
from tests.workers.tiny_gguf import save_tiny_gguf

SIZE, LAYERS = 64, 2
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cats", "are", "small", "##er", "cafe", ".", "a"]
TEXT = "Cats are smaller. Café [unk] a"
POOLING = gguf.PoolingType


def vocabulary() -> list[str]:
    return WORDS + [f"w{n}" for n in range(117)]


def save_bert(
    file: Path, kind: str = "f32", pooling: Any = POOLING.MEAN, tokenizer: str = "bert"
) -> Any:
    """Write a random BERT as llama.cpp's converter does; return it with the file's numbers."""
    config = BertConfig(
        vocab_size=128, hidden_size=SIZE, num_hidden_layers=LAYERS, num_attention_heads=4,
        intermediate_size=96, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BertModel(config, add_pooling_layer=False)
    model.train(False)
    writer = gguf.GGUFWriter(file, "bert")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(SIZE)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(4)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    writer.add_tokenizer_model(tokenizer)
    marked = [w if w[:1] == "[" else w[2:] if w[:2] == "##" else f"\u2581{w}" for w in vocabulary()]
    writer.add_token_list(marked)
    writer.add_token_type_count(2)
    for role, number in (("bos", 2), ("sep", 3), ("pad", 0), ("unk", 1)):
        getattr(writer, f"add_{role}_token_id")(number)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, LAYERS)
    for full, parameter in model.named_parameters():
        base, _, end = full.rpartition(".")
        values = parameter.data.numpy()
        type_ = gguf.GGMLQuantizationType[kind.upper() if values.ndim == 2 else "F32"]
        stored = gguf.quants.quantize(values, type_)
        parameter.data.copy_(torch.from_numpy(gguf.quants.dequantize(stored, type_)))
        writer.add_tensor(f"{names.get_name(base)}.{end}", stored, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


def prepare(file: Path, runner: Any = "auto") -> PreparedModel:
    options = PrepareOptions(
        file.parent / f"text-{file.stem}",
        cache_dir=file.parent / "cache",
        engine=EngineConfig(runner=runner),
    )
    return prepare_model(str(file), options, lambda line: None)


def embedding(engine: PoolingEngine, ids: list[int]) -> NDArray[np.float64]:
    return numbers(run(engine, [encode("a", ids)])["a"].pooled)


def normalized(vector: torch.Tensor) -> NDArray[np.float64]:
    values = vector.double().numpy()
    return np.asarray(values / np.linalg.norm(values))


def test_an_encoder_computes_what_transformers_does(folder: Path) -> None:
    model = save_bert(folder / "bert.gguf")
    prepared = prepare(folder / "bert.gguf")
    assert (prepared.runner, prepared.convert) == ("pooling", "embed")
    (folder / "vocab.txt").write_text("\n".join(vocabulary()))
    wanted_ids = BertTokenizer(str(folder / "vocab.txt"))(TEXT).input_ids
    ids = Tokenizer.from_file(str(prepared.text_path / "tokenizer.json")).encode(TEXT).ids
    assert ids == wanted_ids
    with torch.no_grad():
        wanted = normalized(model(torch.tensor([ids])).last_hidden_state[0].mean(dim=0))
    for kernels in (*usable_kernels(), "torch"):
        engine = engine_of(prepared.model_path, cpu_kernels=kernels)
        np.testing.assert_allclose(embedding(engine, ids), wanted, atol=1e-5)


def test_blocks_stay_packed(folder: Path) -> None:
    model = save_bert(folder / "blocks.gguf", "q8_0", POOLING.CLS)
    lines: list[str] = []
    engine = engine_of(prepare(folder / "blocks.gguf").model_path, lines.append)
    ids = list(range(2, 40))
    with torch.no_grad():
        wanted = normalized(model(torch.tensor([ids])).last_hidden_state[0, 0])
    assert embedding(engine, ids) @ wanted > 0.999
    if usable_kernels():
        assert any("compiled kernels" in line and "in q8_0" in line for line in lines)


def test_a_decoder_pools_its_last_token_as_its_file_says(folder: Path) -> None:
    model = save_tiny_gguf(folder / "qwen3.gguf", "qwen3", "f32")
    assert prepare(folder / "qwen3.gguf").runner == "generate"
    prepared = prepare(folder / "qwen3.gguf", "pooling")
    engine = engine_of(prepared.model_path)
    ids = list(range(3, 30))
    with torch.no_grad():
        wanted = normalized(model.model(torch.tensor([ids])).last_hidden_state[0, -1])
    np.testing.assert_allclose(embedding(engine, ids), wanted, atol=1e-5)


def test_files_that_are_not_read(folder: Path) -> None:
    save_bert(folder / "other.gguf", tokenizer="t5")
    with pytest.raises(ModelError, match="tokenizer of the kind 't5'"):
        prepare(folder / "other.gguf")
    save_bert(folder / "ranker.gguf", pooling=POOLING.RANK)
    with pytest.raises(ModelError, match="ranks pairs of texts"):
        prepare(folder / "ranker.gguf")
    save_bert(folder / "plain.gguf", pooling=None)
    prepared = prepare(folder / "plain.gguf")
    assert json.loads((prepared.model_path / "config.json").read_text())["hidden_size"] == SIZE
    assert prepared.info.pooling is not None
    with pytest.raises(ModelUnsupported, match="embeds only"):
        engine_of(prepared.model_path, convert="classify")
