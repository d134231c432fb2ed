"""The Triton kernel against the definition; on a CPU Triton's interpreter runs it."""

import importlib
import importlib.util
import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
if importlib.util.find_spec("triton") is None:
    pytest.skip("needs triton", allow_module_level=True)

from headrace.workers.attention import triton_decode as module
from headrace.workers.attention.backend import AttentionOptions, KVLayerShape
from headrace.workers.attention.triton_decode import triton_decode
from headrace.workers.attention.varlen_call import Lengths, Pages
from headrace.workers.attention.varlen_check import LayerKind, attends_correctly, plain_attention

# Triton's interpreter, of numpy's conversions.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LENGTHS = (1, 64, 65, 200, 333)


def step(
    heads: int, kv_heads: int, dim: int, page: int, dtype: torch.dtype, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Pages]:
    """Queries, a cache, tables, and each text's keys and values in order."""
    generator = torch.Generator().manual_seed(seed)
    counts = [-(-length // page) for length in LENGTHS]
    order = torch.randperm(sum(counts) + 2, generator=generator).tolist()
    shape = (sum(counts) + 2, page, kv_heads, dim)
    key, value = (torch.randn(shape, generator=generator).to(DEVICE, dtype) for _ in range(2))
    table = torch.zeros((len(LENGTHS), max(counts) + 3), dtype=torch.int32)
    for row, count in enumerate(counts):
        table[row, :count] = torch.tensor([order.pop() for _ in range(count)])
    for page_left in order:  # what is read by mistake shows
        key[page_left] = value[page_left] = float("nan")
    query = torch.randn((heads, len(LENGTHS), dim), generator=generator).to(DEVICE, dtype)
    used = torch.tensor(LENGTHS, dtype=torch.int32)
    return query.transpose(0, 1), key, value, Pages(used.to(DEVICE), table.to(DEVICE))


@pytest.mark.parametrize("parts", [1, 5])
@pytest.mark.parametrize("window", [None, 70])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "page"),
    [(4, 2, 16, 16), (3, 3, 24, 64), (20, 1, 16, 256), (8, 2, 128, 16)],
)
def test_it_follows_the_definition(
    heads: int,
    kv_heads: int,
    dim: int,
    page: int,
    window: int | None,
    parts: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_multiprocessors", lambda _: parts * len(LENGTHS) * kv_heads // 2)
    query, key, value, pages = step(heads, kv_heads, dim, page, torch.float32)
    options = AttentionOptions(dim**-0.5, window)
    offsets = torch.arange(len(LENGTHS) + 1, dtype=torch.int32, device=DEVICE)
    lengths = Lengths(offsets, offsets, 1, max(LENGTHS))
    sides = (-1, -1) if window is None else (window - 1, 0)
    found = triton_decode(
        query, key, value, lengths, scale=options.scaling, window=sides, pages=pages
    )
    for row, length in enumerate(LENGTHS):
        blocks = pages.table[row, : -(-length // page)].long()
        keys, values = (cache[blocks].flatten(0, 1)[:length] for cache in (key, value))
        expected = plain_attention(query[row : row + 1], keys, values, options)
        torch.testing.assert_close(found[row : row + 1], expected, atol=2e-5, rtol=2e-5)


# The interpreter multiplies the bits of bfloat16 as if they were integers.
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16][DEVICE.type == "cpu" :])
def test_sixteen_bit_floats(dtype: torch.dtype) -> None:
    query, key, value, pages = step(4, 2, 32, 64, dtype, seed=3)
    offsets = torch.arange(len(LENGTHS) + 1, dtype=torch.int32, device=DEVICE)
    lengths = Lengths(offsets, offsets, 1, max(LENGTHS))
    found = triton_decode(query, key, value, lengths, scale=0.2, window=(-1, -1), pages=pages)
    assert found.dtype == dtype
    for row, length in enumerate(LENGTHS):
        blocks = pages.table[row, : -(-length // 64)].long()
        keys, values = (cache[blocks].flatten(0, 1)[:length].float() for cache in (key, value))
        expected = plain_attention(
            query[row : row + 1].float(), keys, values, AttentionOptions(0.2)
        )
        torch.testing.assert_close(found[row : row + 1].float(), expected, atol=0.03, rtol=0.03)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(32, 8, 128), (32, 8, 64), (8, 8, 80)])
def test_known_answers_on_the_device(
    heads: int, kv_heads: int, dim: int, window: int | None
) -> None:
    kind = LayerKind(heads, KVLayerShape(kv_heads, dim, dim), AttentionOptions(dim**-0.5, window))
    assert attends_correctly(kind, torch.bfloat16, DEVICE, triton_decode, paged=True)


def test_what_cannot_be_compiled_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        triton = importlib.import_module("triton")
        raise triton.TritonError("out of resources")

    monkeypatch.setattr(module, "_decode", fail)
    kind = LayerKind(4, KVLayerShape(2, 16, 16), AttentionOptions(0.25))
    assert not attends_correctly(kind, torch.float16, DEVICE, triton_decode, paged=True)
