"""Compiled programs against transformers, for the shapes that tiny models do not have."""

import itertools
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from headrace.protocol.config import Dtype, EngineConfig, KernelSet, Quantization
from headrace.workers.attention.backend import AttentionBatch, Span
from headrace.workers.attention.hook import AttentionHook, attention_of
from headrace.workers.build import build_engine
from headrace.workers.errors import ModelUnsupported
from headrace.workers.linear.quantization import dequantize_weight, quantize_weight
from headrace.workers.native import compile_model as choose
from headrace.workers.native import library
from headrace.workers.native.activations import ACTIVATIONS, find_activation
from headrace.workers.native.capturing.norms import find_norm
from headrace.workers.native.compile_model import release_weights
from headrace.workers.native.graph import Graph, Node, NotStatic
from headrace.workers.native.program import CompiledProgram, Program
from headrace.workers.native.rewrite import rewrite
from headrace.workers.torch_runner.loading import load_model
from tests.workers.processors import needs_int8, needs_kernels, on_each_set, on_slower_sets
from tests.workers.tiny_models import VOCAB, save_model, save_tiny


def load(
    folder: Path,
    options: dict[str, Any],
    dtype: Dtype = "float32",
    config: str = "LlamaConfig",
    model: str = "LlamaForCausalLM",
) -> tuple[PreTrainedModel, AttentionHook]:
    save_model(folder, config, model, {"max_position_embeddings": 2048, **options})
    loaded = load_model(folder, dtype, torch.device("cpu"))
    hook = AttentionHook()
    with torch.inference_mode():
        hook.probe(loaded)
    return loaded, hook


@torch.inference_mode()
def reference(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    with attention_of(model, "eager"):
        found: torch.Tensor = model(input_ids=torch.tensor([tokens])).logits[0].float()
        return found


def tokens_of(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB, (length,), generator=generator).tolist()


def blocks_of(length: int, first: int = 0) -> list[int]:
    """The blocks of a text, from the last to the first."""
    return list(range(first + -(-length // 16) - 1, first - 1, -1))


@torch.inference_mode()
def run(program: Program, parts: list[tuple[list[int], int, int, list[int]]]) -> torch.Tensor:
    """Logits of all rows of one step, copied; parts are (tokens, start, end, blocks)."""
    ids: list[int] = []
    positions: list[int] = []
    spans: list[Span] = []
    for tokens, start, end, blocks in parts:
        spans.append(Span(len(ids), end - start, start, blocks))
        ids += tokens[start:end]
        positions += range(start, end)
    return program.forward(ids, positions, range(len(ids)), AttentionBatch([], spans)).clone()


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert float((ours - theirs).abs().max() / theirs.std()) < tolerance


SHAPES: dict[str, Any] = {
    "deep and odd": {"intermediate_size": 2100, "hidden_size": 52, "head_dim": 22},
    "one head": {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 80},
    "many queries to a key": {
        "hidden_size": 84,
        "num_attention_heads": 14,
        "num_key_value_heads": 1,
    },
    "wide heads": {"head_dim": 144, "num_hidden_layers": 1},
    "more key heads than a task takes": {
        "hidden_size": 96,
        "num_attention_heads": 24,
        "num_key_value_heads": 24,
        "head_dim": 272,
        "num_hidden_layers": 1,
    },
    "scores far apart": {"initializer_range": 0.4},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "tied": {"tie_word_embeddings": True},
}


@needs_kernels
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_long_texts_in_uneven_chunks(
    tmp_path: Path, shape: dict[str, bool | int], threads: int
) -> None:
    """620 rows at once exceed a block of rows; decodes after them are split by tokens."""
    model, hook = load(tmp_path, shape)
    tokens = tokens_of(701)
    expected = reference(model, tokens)
    program = CompiledProgram(model, hook, threads).start(50, 16)
    blocks = blocks_of(len(tokens))
    found = [
        run(program, [(tokens, start, end, blocks)])
        for start, end in ((0, 3), (3, 623), (623, 699), (699, 700), (700, 701))
    ]
    assert_close(torch.cat(found), expected)


@on_slower_sets
@pytest.mark.parametrize("shape", SHAPES)
def test_long_texts_on_each_set(tmp_path: Path, shape: str, kernel_set: KernelSet) -> None:
    test_long_texts_in_uneven_chunks(tmp_path, SHAPES[shape], 2)


@on_each_set
@pytest.mark.parametrize("window", [5, 16, 100])
def test_windows_over_long_texts(tmp_path: Path, window: int) -> None:
    options = {"sliding_window": window}
    model, hook = load(tmp_path, options, config="MistralConfig", model="MistralForCausalLM")
    tokens = tokens_of(300)
    program = CompiledProgram(model, hook, 2).start(20, 16)
    blocks = blocks_of(len(tokens))
    cuts = (0, 130, 131, 299, 300)
    parts = itertools.pairwise(cuts)
    found = [run(program, [(tokens, start, end, blocks)]) for start, end in parts]
    assert_close(torch.cat(found), reference(model, tokens))


@on_each_set
def test_sequences_do_not_see_each_other_nor_what_failed_ones_left(tmp_path: Path) -> None:
    model, hook = load(tmp_path, {})
    bad = 7
    texts = [[t if t != bad else 8 for t in tokens_of(n, n)] for n in (1, 17, 40, 90)]
    expected = [reference(model, text) for text in texts]
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, torch.nn.Embedding)
    embedding.weight[bad] = float("nan")
    program = CompiledProgram(model, hook, 2).start(40, 16)
    spoilt = run(program, [([bad] * 640, 0, 640, list(range(40)))])
    assert spoilt.isnan().all()
    parts = [(t, 0, len(t), blocks_of(len(t), 8 * n)) for n, t in enumerate(texts)]
    found = torch.split(run(program, parts), [len(text) for text in texts])
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs)


@on_each_set
def test_bfloat16_is_as_near_to_float32_as_transformers_own(tmp_path: Path) -> None:
    options = {"hidden_size": 128, "intermediate_size": 384, "initializer_range": 0.1}
    exact, _ = load(tmp_path, options)
    model, hook = load(tmp_path, options, "bfloat16")
    tokens = tokens_of(200)
    expected, theirs = reference(exact, tokens), reference(model, tokens)
    program = CompiledProgram(model, hook, 2).start(20, 16)
    ours = run(program, [(tokens, 0, 200, blocks_of(200))])
    assert (ours - expected).square().mean() < 1.1 * (theirs - expected).square().mean()


@needs_kernels
@pytest.mark.parametrize(("tied", "left"), [(True, []), (False, ["model.embed_tokens.weight"])])
def test_weights_are_freed_and_the_program_still_runs(
    tmp_path: Path, tied: bool, left: list[str]
) -> None:
    """A tied embedding is read from the packed head."""
    model, hook = load(tmp_path, {"tie_word_embeddings": tied})
    tokens = tokens_of(20)
    expected = reference(model, tokens)
    compiled = CompiledProgram(model, hook, 1)
    release_weights(model, compiled)
    assert [name for name, weight in model.named_parameters() if weight.numel()] == left
    assert_close(run(compiled.start(2, 16), [(tokens, 0, 20, [1, 0])]), expected)


CHANGES = {
    "a factor of a sum": lambda x, y: torch.add(x, y, alpha=2),
    "division with rounding": lambda x, y: x + torch.div(y, 3, rounding_mode="floor"),
    "a sum in place": lambda x, y: y.add_(x),
    "a factor in place": lambda x, y: y.mul_(2),
    "rounding to integers": lambda x, y: y.to(torch.int32).float(),
    "the bits of numbers": lambda x, y: y.view(torch.int32).to(torch.float32),
    "another order in memory": lambda x, y: y[..., None].to(memory_format=torch.channels_last),
    "an approximation": lambda x, y: torch.nn.functional.elu(y, alpha=0.5),
}


Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def change_layer(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """Let the first layer's MLP give what `change` makes of its input and output."""
    mlp = model.model.layers[0].mlp
    forward = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda x: change(x, forward(x)).view(x.shape))


@needs_kernels
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_no_instruction_does_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    model, hook = load(tmp_path, {})
    change_layer(model, monkeypatch, change)
    with pytest.raises(NotStatic):
        CompiledProgram(model, hook, 1)


@needs_kernels
def test_arguments_at_their_defaults_are_as_good_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, hook = load(tmp_path, {})
    change_layer(model, monkeypatch, lambda x, y: torch.add(x, y, alpha=1).clone())
    tokens = tokens_of(20)
    program = CompiledProgram(model, hook, 1).start(2, 16)
    assert_close(run(program, [(tokens, 0, 20, [1, 0])]), reference(model, tokens))


@needs_kernels
def test_modules_may_be_called_with_names_and_not_with_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, hook = load(tmp_path, {})
    mlp = model.model.layers[0].mlp
    monkeypatch.setattr(mlp, "forward", lambda x: mlp.down_proj(input=mlp.up_proj(x)))
    CompiledProgram(model, hook, 1)
    monkeypatch.setattr(mlp, "forward", lambda x: mlp.down_proj(mlp.up_proj(x), x))
    with pytest.raises(NotStatic, match="more than one tensor"):
        CompiledProgram(model, hook, 1)


def build(folder: Path, **options: Any) -> str:
    lines: list[str] = []
    config = EngineConfig(dtype="float32", kv_cache_bytes=2**20, max_model_len=64, **options)
    build_engine(folder, config, 1, lines.append)
    return "\n".join(lines)


@needs_kernels
def test_kernels_run_what_they_can(tmp_path: Path) -> None:
    save_tiny(tmp_path, "llama")
    assert "compiled kernels" in build(tmp_path)
    assert "compiled kernels" in build(tmp_path, cpu_kernels="native")
    assert "cpu_kernels is torch" in build(tmp_path, cpu_kernels="torch")
    assert "block_size is not a multiple of 16" in build(tmp_path, block_size=8)


def test_without_kernels_torch_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny(tmp_path, "llama")
    library.load_library.cache_clear()
    monkeypatch.setattr(library, "EXTENSION_SUFFIXES", [".none"])
    assert "were not built" in build(tmp_path)
    with pytest.raises(ModelUnsupported, match="were not built"):
        build(tmp_path, cpu_kernels="native")
    library.load_library.cache_clear()


@on_each_set
def test_the_fastest_kernels_that_the_processor_can_run_are_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel_set: KernelSet
) -> None:
    faster = list(library.KERNEL_SETS)[: list(library.KERNEL_SETS).index(kernel_set)]
    for name in faster:
        if loaded := library.load_library(name):
            monkeypatch.setattr(loaded, "supported", lambda: 0)
    save_tiny(tmp_path, "llama")
    assert f"compiled kernels for {kernel_set}," in build(tmp_path)
    assert f"compiled kernels for {kernel_set}," in build(tmp_path, cpu_kernels="native")


@on_each_set
def test_kernels_are_those_that_are_asked_for(tmp_path: Path, kernel_set: KernelSet) -> None:
    save_tiny(tmp_path, "llama")
    assert f"compiled kernels for {kernel_set}," in build(tmp_path, cpu_kernels=kernel_set)


@on_each_set
def test_a_processor_that_lacks_what_is_asked_for_ends_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel_set: KernelSet
) -> None:
    save_tiny(tmp_path, "llama")
    monkeypatch.setattr(library.load_library(kernel_set), "supported", lambda: 0)
    with pytest.raises(ModelUnsupported) as refused:
        build(tmp_path, cpu_kernels=kernel_set)
    assert f"cpu_kernels is {kernel_set}, but the processor lacks " in str(refused.value)
    assert library.KERNEL_SETS[kernel_set] in str(refused.value)


def test_kernels_that_were_not_built_end_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny(tmp_path, "llama")
    monkeypatch.setattr(library, "load_library", lambda name: None)
    with pytest.raises(ModelUnsupported, match="kernels for portable were not built"):
        build(tmp_path, cpu_kernels="portable")


@pytest.mark.parametrize(("machine", "kernels"), [("x86_64", "neon"), ("aarch64", "avx2")])
def test_kernels_of_another_kind_of_processor_end_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, kernels: KernelSet
) -> None:
    save_tiny(tmp_path, "llama")
    monkeypatch.setattr(library, "_usable", lambda name: None)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(ModelUnsupported, match=f"is {kernels}, but the processor lacks "):
        build(tmp_path, cpu_kernels=kernels)


@needs_int8
@pytest.mark.parametrize("kind", ["int8", "int8_dynamic"])
def test_quantization_without_kernels_is_said_to_be_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    save_tiny(tmp_path, "llama")
    monkeypatch.setattr(library, "load_kernels", lambda: None)
    build(tmp_path)
    assert not caplog.records
    build(tmp_path, quantization=kind)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"--quantization {kind} is slow here" in record.getMessage()


@needs_kernels
def test_quantization_with_kernels_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_tiny(tmp_path, "llama")
    build(tmp_path, quantization="int8")
    assert not caplog.records


def test_a_dtype_without_kernels_runs_on_torch() -> None:
    assert "float16" in (library.unsupported_reason(torch.float16) or "")


def test_where_nothing_can_be_captured_the_operator_hears_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise NotStatic("it uses aten.nonzero")

    save_tiny(tmp_path, "llama")
    monkeypatch.setattr(choose, "CompiledProgram", refuse)
    monkeypatch.setattr(choose, "unsupported_reason", lambda dtype: None)
    assert "it uses aten.nonzero" in build(tmp_path)


def test_norms_are_known_by_what_they_do() -> None:
    rms = torch.nn.RMSNorm(12, eps=1e-5)
    torch.nn.init.normal_(rms.weight)
    found = find_norm(rms)
    assert found is not None
    assert (found.centred, found.plus_one) == (False, False)
    layer = torch.nn.LayerNorm(12)
    torch.nn.init.normal_(layer.bias)
    found = find_norm(layer)
    assert found is not None
    assert found.centred
    assert find_norm(torch.nn.BatchNorm1d(12).eval()) is None
    assert find_norm(torch.nn.Linear(3, 4)) is None

    class OfPictures(torch.nn.LayerNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    assert find_norm(OfPictures(12)) is None


def test_activations_are_known_by_what_they_do() -> None:
    assert find_activation(torch.nn.GELU(approximate="tanh")) == "gelu_tanh"
    assert find_activation(torch.nn.SiLU()) == "silu"
    assert find_activation(torch.nn.Dropout(0.0).eval()) is None
    assert find_activation(torch.nn.LeakyReLU()) is None


@on_each_set
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_of_the_kernels(tmp_path: Path, name: str) -> None:
    names = {"gelu_tanh": "gelu_pytorch_tanh"}
    model, hook = load(tmp_path, {"hidden_act": names.get(name, name)})
    tokens = tokens_of(30)
    program = CompiledProgram(model, hook, 1).start(2, 16)
    assert_close(run(program, [(tokens, 0, 30, [1, 0])]), reference(model, tokens))


@needs_kernels
def test_a_program_ends_with_its_threads(tmp_path: Path) -> None:
    """Threads of programs that are gone must not be left behind, nor keep the process alive."""
    save_tiny(tmp_path, "llama")
    code = f"""
import gc, os, time, torch
from pathlib import Path
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.torch_runner.loading import load_model
from headrace.workers.native.program import CompiledProgram
torch.set_num_threads(1)
model = load_model(Path({str(tmp_path)!r}), "float32", torch.device("cpu"))
hook = AttentionHook()
with torch.inference_mode():
    hook.probe(model)
compiled = CompiledProgram(model, hook, 4)
time.sleep(0.3)  # until those that packed the weights are gone
before = len(os.listdir("/proc/self/task"))
program = compiled.start(2, 16)
assert len(os.listdir("/proc/self/task")) == before + 3
del program
gc.collect()
assert len(os.listdir("/proc/self/task")) == before
program = compiled.start(2, 16)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


@on_slower_sets
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", ["int8", "int8_dynamic"])
def test_weights_of_8_bits_on_each_set(
    tmp_path: Path, quantization: Quantization, dtype: Dtype, kernel_set: KernelSet
) -> None:
    test_weights_of_8_bits(tmp_path, "deep and odd", quantization, dtype)


@needs_kernels
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", ["int8", "int8_dynamic"])
@pytest.mark.parametrize("shape", ["deep and odd", "biases", "tied"])
def test_weights_of_8_bits(
    tmp_path: Path, shape: str, quantization: Quantization, dtype: Dtype
) -> None:
    """Against transformers with the rounded weights put back as numbers of the dtype."""
    options = {"hidden_size": 96, "initializer_range": 0.1, **SHAPES[shape]}
    model, hook = load(tmp_path, options, dtype)
    tokens = tokens_of(150)
    plain = reference(model, tokens)
    compiled = CompiledProgram(model, hook, 2, quantization)
    blocks = blocks_of(150)
    program = compiled.start(10, 16)
    ours = torch.cat(
        [run(program, [(tokens, start, end, blocks)]) for start, end in ((0, 140), (140, 150))]
    )
    if not model.config.tie_word_embeddings:
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                values, scales = quantize_weight(module.weight)
                module.weight.data = dequantize_weight(values, scales).to(model.dtype)
        tolerance = {"int8": {"float32": 1e-4, "bfloat16": 0.05}[dtype], "int8_dynamic": 0.1}
        rounded = reference(model, tokens)
        error = (ours - rounded).square().mean().sqrt() / rounded.std()
        assert error < tolerance[quantization]
    error = (ours - plain).square().mean().sqrt() / plain.std()
    assert error < 0.12
    assert compiled.weight_bytes < 0.6 * sum(
        weight.numel() * weight.element_size() for weight in model.parameters()
    )


def test_a_sum_that_is_read_again_later_is_not_overwritten() -> None:
    """Sums in place chain: what stands for an earlier sum is the same memory."""
    linear = {"weight": torch.zeros(4, 4), "bias": None, "transposed": False}
    x = Node("embedding", (), 4, data={"weight": torch.zeros(9, 4)})
    nodes, sums = [x], [x]
    for base in (0, 1, 1):  # the third adds to what the first gave, which the second must leave
        product = Node("linear", (sums[-1].view(),), 4, data=dict(linear))
        sums.append(Node("add", (sums[base].view(), product.view()), 4))
        nodes += [product, sums[-1]]
    chosen = Node("gather", (sums[-1].view(),), 4, True)
    head = Node("linear", (chosen.view(),), 4, True, dict(linear))
    graph = rewrite(Graph((*nodes, chosen, head), head, ()))
    kept = [node.kind for node in graph.nodes if node.kind == "add"]
    in_place = [node for node in graph.nodes if node.target is not None]
    assert len(kept) == 1, "the second sum has memory of its own"
    assert len(in_place) == 2
