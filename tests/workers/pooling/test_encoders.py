"""Random models of many shapes: the numbers are those of transformers' own forward pass."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModel

from headrace.protocol.config import CpuKernels, EngineConfig
from headrace.workers.errors import ModelUnsupported
from headrace.workers.native.library import usable_kernels
from headrace.workers.pooling.build import build_pooling_engine
from headrace.workers.pooling.engine import PoolingEngine
from tests.workers.pooling.driving import encode, numbers, run

VOCAB, PAD = 120, 1
_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 130,
    "pad_token_id": PAD,
    "initializer_range": 0.3,
}
_GROUPED = {"num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None}

# name: configuration, class, options, and whether texts of different lengths share a pass.
SHAPES: dict[str, tuple[str, str, dict[str, Any], bool]] = {
    "bert": ("BertConfig", "BertModel", {}, True),
    "roberta": ("RobertaConfig", "RobertaForMaskedLM", {}, True),
    "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaModel", {}, True),
    "distilbert": ("DistilBertConfig", "DistilBertModel", {"dim": 32, "hidden_dim": 48}, True),
    "modernbert": ("ModernBertConfig", "ModernBertModel", {"local_attention": 8}, True),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**_GROUPED, "head_dim": 12}, True),
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3TextModel",
        {**_GROUPED, "head_dim": 16, "sliding_window": 8, "use_bidirectional_attention": True},
        True,
    ),
    "mpnet": ("MPNetConfig", "MPNetModel", {"max_position_embeddings": 232}, False),
    "albert": ("AlbertConfig", "AlbertModel", {"embedding_size": 24, "num_hidden_groups": 2}, True),
    "deberta-v2": (
        "DebertaV2Config",
        "DebertaV2Model",
        {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
        False,
    ),
}

# Those that have no program; and texts of a length at which distances have no numbers of their own.
ON_TORCH = {"deberta-v2"}
LONGEST = {"mpnet": 220}


def save(folder: Path, name: str, **changes: Any) -> None:
    config_name, class_name, options, _ = SHAPES[name]
    if name == "distilbert":
        common = {key: _COMMON[key] for key in ("vocab_size", "max_position_embeddings")}
        options = {**options, "n_layers": 3, "n_heads": 4, "pad_token_id": PAD, **common}
    else:
        options = {**_COMMON, **options}
    torch.manual_seed(1)
    model = getattr(transformers, class_name)(getattr(transformers, config_name)(**options)).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.ndim == 1 and "norm" not in key.lower():
                weight.normal_(std=0.2)
    model.save_pretrained(folder)
    if changes:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))


def write_modules(folder: Path, kinds: list[str], pooling: dict[str, Any]) -> None:
    modules = []
    for number, kind in enumerate(kinds):
        place = "" if kind == "Transformer" else f"{number}_{kind}"
        modules.append(
            {"idx": number, "path": place, "type": f"sentence_transformers.models.{kind}"}
        )
        (folder / place).mkdir(exist_ok=True)
        if kind == "Pooling":
            (folder / place / "config.json").write_text(json.dumps(pooling))
    (folder / "modules.json").write_text(json.dumps(modules))


def engine_of(folder: Path, log: Callable[[str], None] = print, **options: Any) -> PoolingEngine:
    config = EngineConfig(runner="pooling", dtype="float32", threads=1, **options)
    return build_pooling_engine(folder, config, 1, log)


def texts(count: int = 4, longest: int = 90) -> list[list[int]]:
    random = np.random.default_rng(3)
    lengths = [1, 2, longest, *random.integers(1, longest, count)]
    return [random.integers(5, VOCAB, length).tolist() for length in lengths]


@pytest.mark.parametrize("kernels", [*usable_kernels(), "torch"])
@pytest.mark.parametrize("name", SHAPES)
def test_vectors_are_those_of_transformers(name: str, kernels: CpuKernels, tmp_path: Path) -> None:
    save(tmp_path, name)
    write_modules(tmp_path, ["Transformer", "Pooling"], {"pooling_mode": "mean"})
    shares_passes = SHAPES[name][3]
    if kernels != "torch" and name in ON_TORCH:
        with pytest.raises(ModelUnsupported, match=f"cpu_kernels is {kernels}, but .* no fixed"):
            engine_of(tmp_path, cpu_kernels=kernels)
        return
    lines: list[str] = []
    engine = engine_of(tmp_path, lines.append, cpu_kernels=kernels)
    runs_in_turn = kernels == "torch" and not shares_passes
    assert any("one after the other" in line for line in lines) == runs_in_turn, lines
    assert any(f"compiled kernels for {kernels}," in line for line in lines) != (
        kernels == "torch"
    ), lines
    reference = AutoModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    inputs = texts(longest=LONGEST.get(name, 90))
    requests = [encode(str(n), ids, "token_embed") for n, ids in enumerate(inputs)]
    together = run(engine, requests)
    for n, ids in enumerate(inputs):
        found = together[str(n)].pooled
        alone = run(engine, [encode("alone", ids, "token_embed")])["alone"].pooled
        assert found == alone, f"{name}: text {n} depends on those beside it"
        with torch.inference_mode():
            wanted = reference(torch.tensor([ids])).last_hidden_state[0].double().numpy()
        scale = np.abs(wanted).max()
        assert np.abs(numbers(found) - wanted).max() < 1e-4 * max(scale, 1.0)


@pytest.mark.parametrize("kernels", [*usable_kernels(), "torch"])
def test_vectors_in_bfloat16(kernels: CpuKernels, tmp_path: Path) -> None:
    save(tmp_path, "bert")
    reference = AutoModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    config = EngineConfig(runner="pooling", dtype="bfloat16", threads=2, cpu_kernels=kernels)
    engine = build_pooling_engine(tmp_path, config, 1, print)
    for ids in texts():
        found = run(engine, [encode("a", ids)])["a"].pooled
        with torch.inference_mode():
            wanted = reference(torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()
        ours = numbers(found)
        cosine = ours @ wanted / np.linalg.norm(ours) / np.linalg.norm(wanted)
        assert cosine > 0.98  # as with transformers in bfloat16


@pytest.mark.parametrize("mode", ["mean", "weightedmean", "mean_sqrt_len_tokens"])
def test_vectors_in_bfloat16_are_pooled_in_float32(mode: str, bert: Path, tmp_path: Path) -> None:
    """Sums in bfloat16 would be off by thousandths."""
    folder = linked(bert, tmp_path)
    write_modules(folder, ["Transformer", "Pooling", "Normalize"], {"pooling_mode": mode})
    config = EngineConfig(runner="pooling", dtype="bfloat16", threads=1)
    engine, ids = build_pooling_engine(folder, config, 1, print), texts()[2]
    rows = numbers(run(engine, [encode("t", ids, "token_embed", activates=False)])["t"].pooled)
    weights = np.arange(1, len(ids) + 1) if mode == "weightedmean" else np.ones(len(ids))
    wanted = (rows * weights[:, None]).sum(0)
    found = numbers(run(engine, [encode("e", ids)])["e"].pooled)
    assert np.abs(found - wanted / np.linalg.norm(wanted)).max() < 1e-6


def test_quantized_weights_say_how_near_they_come(tmp_path: Path) -> None:
    save(tmp_path, "bert")
    ids, found = texts()[2], {}
    for quantization in (None, "int8", "int8_dynamic", "q8_0"):
        lines: list[str] = []
        engine = engine_of(tmp_path, lines.append, quantization=quantization)
        found[quantization] = numbers(run(engine, [encode("a", ids)])["a"].pooled)
        if quantization is not None:
            (line,) = [line for line in lines if "cosine" in line]
            assert line.startswith(f"{quantization}: ")
            assert 0.99 < float(line.split()[-1]) < 1
            assert np.abs(found[quantization] - found[None]).max() > 0
    with pytest.raises(ModelUnsupported, match="quantization is q8_0, but cpu_kernels is torch"):
        engine_of(tmp_path, quantization="q8_0", cpu_kernels="torch")


def test_padding_tokens_in_a_text_have_no_place_in_roberta(tmp_path: Path) -> None:
    save(tmp_path, "roberta")
    ids = [7, PAD, 9, 11, PAD]
    found = run(engine_of(tmp_path), [encode("a", ids, "token_embed", activates=False)])["a"].pooled
    reference = AutoModel.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        wanted = reference(torch.tensor([ids]), attention_mask=torch.ones(1, 5)).last_hidden_state
    assert np.abs(numbers(found) - wanted[0].double().numpy()).max() < 1e-4


def test_positions_of_roberta_begin_after_the_padding(tmp_path: Path) -> None:
    save(tmp_path, "roberta")
    longest = run(engine_of(tmp_path), [encode("a", [9] * 128)])["a"]
    assert longest.finish_reason == "stop"
    config = EngineConfig(runner="pooling", max_model_len=129)
    with pytest.raises(ModelUnsupported, match="max_model_len is 129"):
        build_pooling_engine(tmp_path, config, 1, print)


@pytest.mark.parametrize(
    ("mode", "pool"),
    [
        ("cls", lambda rows: rows[0]),
        ("max", lambda rows: rows.max(0)),
        ("mean", lambda rows: rows.mean(0)),
        ("mean_sqrt_len_tokens", lambda rows: rows.sum(0) / np.sqrt(len(rows))),
        (
            "weightedmean",
            lambda rows: np.average(rows, axis=0, weights=np.arange(1, len(rows) + 1)),
        ),
        ("lasttoken", lambda rows: rows[-1]),
    ],
)
def test_modes_of_pooling(
    mode: str, pool: Callable[[Any], Any], bert: Path, tmp_path: Path
) -> None:
    folder = linked(bert, tmp_path)
    write_modules(folder, ["Transformer", "Pooling"], {"pooling_mode": mode})
    ids = texts()[2]
    engine = engine_of(folder)
    rows = numbers(run(engine, [encode("t", ids, "token_embed")])["t"].pooled)
    assert np.allclose(numbers(run(engine, [encode("e", ids)])["e"].pooled), pool(rows), atol=1e-5)
    assert np.allclose(  # without the tokens of a prompt
        numbers(run(engine, [encode("e", ids, prompt_length=3)])["e"].pooled),
        pool(rows[3:]),
        atol=1e-5,
    )


def test_modes_are_joined_then_changed_and_normalized(bert: Path, tmp_path: Path) -> None:
    folder = linked(bert, tmp_path)
    pooling = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    write_modules(folder, ["Transformer", "Pooling", "Dense", "Normalize"], pooling)
    dense: dict[str, Any] = {"in_features": 64, "out_features": 16, "bias": True}
    dense["activation_function"] = "torch.nn.modules.activation.Tanh"
    (folder / "2_Dense" / "config.json").write_text(json.dumps(dense))
    torch.manual_seed(2)
    weight, bias = torch.randn(16, 64) * 0.1, torch.randn(16)
    tensors = {"linear.weight": weight, "linear.bias": bias}
    save_file(tensors, folder / "2_Dense" / "model.safetensors")
    engine, ids = engine_of(folder), texts()[2]
    rows = numbers(run(engine, [encode("t", ids, "token_embed", activates=False)])["t"].pooled)
    joined = np.concatenate([rows[0], rows.mean(0)])
    plain = np.tanh(weight.double().numpy() @ joined + bias.double().numpy())
    found = numbers(run(engine, [encode("e", ids)])["e"].pooled)
    assert np.allclose(found, plain / np.linalg.norm(plain), atol=1e-5)
    found = numbers(run(engine, [encode("e", ids, activates=False)])["e"].pooled)
    assert np.allclose(found, plain, atol=1e-5)


def test_cut_embeddings_are_normalized_after_the_cut(tmp_path: Path) -> None:
    save(tmp_path, "bert", matryoshka_dimensions=[8, 32])
    engine, ids = engine_of(tmp_path), texts()[2]
    whole = numbers(run(engine, [encode("e", ids, activates=False)])["e"].pooled)
    cut = numbers(run(engine, [encode("e", ids, dimensions=8)])["e"].pooled)
    assert np.allclose(cut, whole[:8] / np.linalg.norm(whole[:8]), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("float16", torch.float16),
        ("bfloat16", torch.bfloat16),
        ("fp8_e4m3", torch.float8_e4m3fn),
        ("fp8_e5m2", torch.float8_e5m2),
    ],
)
def test_numbers_in_other_formats(name: Any, dtype: torch.dtype, bert: Path) -> None:
    engine = engine_of(bert)
    whole = torch.tensor(numbers(run(engine, [encode("e", [5, 6])])["e"].pooled)).float()
    found = run(engine, [encode("e", [5, 6], number_format=name)])["e"].pooled
    assert found is not None
    assert found.data == whole.to(dtype).view(torch.uint8).numpy().tobytes()
    assert found.shape == (32,)


def test_numbers_that_are_not_finite_end_their_text_alone(bert: Path, tmp_path: Path) -> None:
    folder = linked(bert, tmp_path, copies=("model.safetensors",))
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        model.get_input_embeddings().weight[50] = float("nan")
    model.save_pretrained(folder)
    engine = engine_of(folder)
    found = run(engine, [encode("bad", [5, 50, 6]), encode("good", [5, 6, 7])])
    assert found["bad"].finish_reason == "rejected"
    assert (found["bad"].error or "").startswith("input: ")
    assert found["good"].pooled == run(engine_of(bert), [encode("g", [5, 6, 7])])["g"].pooled


def test_a_missing_weight_is_an_error(bert: Path, tmp_path: Path) -> None:
    folder = linked(bert, tmp_path, copies=("config.json",))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(ModelUnsupported, match="lacks"):
        engine_of(folder)


@pytest.mark.parametrize(
    "change", [{"hidden_size": "wide"}, {"hidden_act": "no such function"}, {"model_type": ["x"]}]
)
def test_a_damaged_configuration_is_told_in_one_line(
    change: dict[str, Any], bert: Path, tmp_path: Path
) -> None:
    folder = linked(bert, tmp_path, copies=("config.json",))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelUnsupported) as refused:
        engine_of(folder)
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    save(folder, "bert")
    return folder


def linked(folder: Path, target: Path, copies: tuple[str, ...] = ()) -> Path:
    """A folder like another, with some files of its own."""
    for file in folder.iterdir():
        if file.name in copies:
            (target / file.name).write_bytes(file.read_bytes())
        else:
            (target / file.name).symlink_to(file)
    return target
