"""Varlen attention: the backend against the definition, with a reference in the op's place.

The op itself has no CPU kernel; where CUDA is at hand the same is asked of it.
"""

import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch

from headrace.workers.attention import varlen, varlen_call
from headrace.workers.attention.backend import AttentionBatch, AttentionOptions, KVLayerShape, Span
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.attention.sdpa import SdpaBackend
from headrace.workers.attention.varlen import VarlenBackend
from headrace.workers.attention.varlen_call import Lengths, torch_varlen
from headrace.workers.attention.varlen_check import LayerKind, attends_correctly, plain_attention
from headrace.workers.torch_runner.choose_backend import (
    choose_backend,
    choose_varlen,
    supports_varlen,
)
from tests.workers.attention.reference_varlen import reference_varlen

CPU = torch.device("cpu")
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DIM, PAGE = 16, 256


def kind(
    heads: int = 4,
    kv_heads: int = 2,
    dim: int = DIM,
    window: int | None = None,
    softcap: float | None = None,
) -> LayerKind:
    shape = KVLayerShape(kv_heads, dim, dim)
    return LayerKind(heads, shape, AttentionOptions(dim**-0.5, window, softcap))


KINDS = [
    kind(),
    kind(kv_heads=4),
    kind(kv_heads=1, window=70),
    kind(kv_heads=4, window=1000),
]


@pytest.mark.parametrize("paged", [True, False])
@pytest.mark.parametrize("one", KINDS, ids=str)
def test_known_answers(one: LayerKind, paged: bool) -> None:
    assert attends_correctly(one, torch.bfloat16, CPU, reference_varlen, paged=paged)


@NEEDS_CUDA
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("one", [kind(32, 8, 128), kind(8, 8, 64, 300), kind(16, 2, 256)], ids=str)
def test_known_answers_on_the_device(one: LayerKind, dtype: torch.dtype) -> None:
    device = torch.device("cuda")
    assert attends_correctly(one, dtype, device, torch_varlen, paged=False)
    if varlen_call.has_block_tables() and one.options.window is None:
        assert attends_correctly(one, dtype, device, torch_varlen, paged=True)


def spoilt(what: str, multiple: int = 256) -> Callable[..., torch.Tensor]:
    def attention(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        lengths: Lengths,
        **options: Any,
    ) -> torch.Tensor:
        output = reference_varlen(query, key, value, lengths, multiple=multiple, **options)
        pages = options.get("pages")
        if what == "refuses pages" and pages is not None:
            raise RuntimeError("not in this build")
        if what == "last row" and lengths.max_queries > 1:
            output[-1] *= 3
        if what == "first decode" and lengths.max_queries == 1:
            output[0] = output[1]
        if what == "nan":
            output[0, 0, 0] = float("nan")
        return output

    return attention


@pytest.mark.parametrize("what", ["refuses pages", "last row", "first decode", "nan"])
def test_wrong_answers_are_noticed(what: str) -> None:
    assert not attends_correctly(kind(), torch.bfloat16, CPU, spoilt(what), paged=True)


def batch(*lengths: tuple[int, int], block_size: int = PAGE) -> AttentionBatch:
    """Spans of (context, rows) each, with scattered blocks; decodes come first."""
    free = itertools.count()
    spans, row = [], 0
    for context, rows in lengths:
        count = -(-(context + rows) // block_size) + 1  # one to grow into
        spans.append(Span(row, rows, context, [next(free) for _ in range(count)][::-1]))
        row += rows
    decodes = [span for span in spans if span.num_rows == 1]
    return AttentionBatch(decodes, spans[len(decodes) :])


def texts(
    one: LayerKind, step: AttentionBatch, seed: int = 0
) -> list[tuple[Span, list[torch.Tensor]]]:
    generator = torch.Generator().manual_seed(seed)
    spans = [*step.decodes, *step.prefills]
    shapes = [(one.heads, DIM), (one.shape.kv_heads, DIM), (one.shape.kv_heads, DIM)]
    return [
        (span, [torch.randn((span.length, *shape), generator=generator) for shape in shapes])
        for span in spans
    ]


def run_step(
    backend: SdpaBackend | VarlenBackend,
    one: LayerKind,
    step: AttentionBatch,
    known: list[tuple[Span, list[torch.Tensor]]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write the contexts, then the step's rows, and attend; and what is right."""
    for span, parts in known:
        if span.context:
            before = AttentionBatch((), [Span(0, span.context, 0, span.blocks)])
            backend.prepare(before)
            backend.write(0, parts[1][: span.context], parts[2][: span.context])
    backend.prepare(step)
    query, key, value = (
        torch.cat([parts[n][span.context :] for span, parts in known]) for n in range(3)
    )
    backend.write(0, key, value)
    found = backend.attend(0, query, key, value, one.options)
    expected = torch.cat(
        [plain_attention(q[span.context :], k, v, one.options) for span, (q, k, v) in known]
    )
    return found, expected


STEPS = {
    "decodes": [(0, 1), (5, 1), (255, 1), (256, 1), (700, 1)],
    "prompts": [(0, 2), (0, 300), (0, 31)],
    "chunks": [(256, 20), (3, 300)],
    "all": [(4, 1), (300, 1), (0, 40), (0, 7), (90, 12), (512, 3), (0, 2)],
}


@pytest.mark.parametrize("paged", [True, False])
@pytest.mark.parametrize("lengths", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("one", KINDS, ids=str)
def test_steps_follow_the_definition(
    one: LayerKind, lengths: list[tuple[int, int]], paged: bool
) -> None:
    step = batch(*lengths)
    backend = VarlenBackend(
        [one.shape], 60, PAGE, torch.float32, CPU, paged=paged, attention=reference_varlen
    )
    found, expected = run_step(backend, one, step, texts(one, step))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("one", KINDS[:3], ids=str)
def test_it_gives_what_the_sdpa_backend_gives(one: LayerKind) -> None:
    step = batch(*STEPS["all"], block_size=16)
    options: dict[str, Any] = {"paged": False, "attention": reference_varlen}
    first = VarlenBackend([one.shape], 200, 16, torch.float32, CPU, **options)
    second = SdpaBackend([one.shape], 200, 16, torch.float32, CPU)
    known = texts(one, step)
    ours, _ = run_step(first, one, step, known)
    theirs, _ = run_step(second, one, step, known)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_gathers_are_cut_into_calls_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "_GATHERED_KEYS", 500)
    sizes = []

    def attention(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        lengths: Lengths,
        **options: Any,
    ) -> torch.Tensor:
        sizes.append((len(query), len(key)))
        return reference_varlen(query, key, value, lengths, **options)

    one = kind()
    step = batch((200, 30), (200, 40), (300, 20), (0, 400), (0, 300), (600, 9))
    backend = VarlenBackend([one.shape], 60, PAGE, torch.float32, CPU, attention=attention)
    found, expected = run_step(backend, one, step, texts(one, step))
    assert sizes == [(70, 470), (20, 320), (700, 700), (9, 609)]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_rows_that_mean_nothing_go_to_a_block_that_no_sequence_has() -> None:
    backend = VarlenBackend([kind().shape], 5, PAGE, torch.float32, CPU)
    assert backend.spare_block == 5
    assert len(backend._keys[0]) == 6


def hook_of(*kinds: LayerKind) -> AttentionHook:
    hook = AttentionHook()
    hook.heads = [one.heads for one in kinds]
    hook.layers = [one.shape for one in kinds]
    hook.options = [one.options for one in kinds]
    return hook


def test_the_cpu_keeps_sdpa() -> None:
    choice = choose_backend(hook_of(kind()), torch.bfloat16, CPU, 16)
    assert isinstance(choice.make, functools.partial)
    assert choice.make.func is SdpaBackend
    assert (choice.block_size, choice.overlaps) == (16, False)


@pytest.mark.parametrize(("asked", "given"), [(16, 256), (256, 256), (300, 512)])
def test_blocks_grow_to_what_the_kernel_reads(asked: int, given: int) -> None:
    choice = choose_varlen(hook_of(*KINDS), torch.bfloat16, CPU, asked, reference_varlen)
    assert choice is not None
    assert (choice.block_size, choice.graphs, choice.overlaps) == (given, True, True)
    assert cast(VarlenBackend, choice.make([kind().shape], 1, given, torch.bfloat16, CPU))._paged


def test_without_tables_that_work_keys_are_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    args = (hook_of(kind()), torch.bfloat16, CPU, 16)
    choice = choose_varlen(*args, spoilt("refuses pages"))
    assert choice is not None
    assert (choice.block_size, choice.graphs, choice.overlaps) == (16, False, True)
    assert not cast(VarlenBackend, choice.make([kind().shape], 1, 16, torch.bfloat16, CPU))._paged
    assert choose_varlen(*args, spoilt("nan")) is None
    monkeypatch.setattr(
        "headrace.workers.torch_runner.choose_backend.has_block_tables", lambda: False
    )
    choice = choose_varlen(*args, reference_varlen)
    assert choice is not None
    assert not choice.graphs


def test_a_kernel_of_our_own_reads_pages_where_torchs_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "headrace.workers.torch_runner.choose_backend.find_triton_decode",
        lambda: spoilt("nothing", 64),
    )
    args = (hook_of(kind()), torch.bfloat16, CPU, 16)
    choice = choose_varlen(*args, spoilt("refuses pages"))
    assert choice is not None
    assert (choice.block_size, choice.graphs, choice.plans_by_length) == (64, True, False)
    assert "Triton" in choice.name
    spoilt_one = choose_varlen(*args, spoilt("nan"))
    assert spoilt_one is not None
    assert spoilt_one.block_size == 64
    by_torch = choose_varlen(*args, reference_varlen)
    assert by_torch is not None
    assert (by_torch.block_size, by_torch.plans_by_length) == (256, True)
    monkeypatch.setattr(
        "headrace.workers.torch_runner.choose_backend.find_triton_decode",
        lambda: spoilt("first decode", 64),
    )
    choice = choose_varlen(*args, spoilt("refuses pages"))
    assert choice is not None
    assert not choice.graphs


@pytest.mark.parametrize(
    ("dtype", "one", "fits"),
    [
        (torch.bfloat16, kind(), True),
        (torch.float16, kind(window=9), True),
        (torch.float32, kind(), False),
        (torch.bfloat16, kind(softcap=30.0), False),
        (torch.bfloat16, kind(dim=12), False),
        (torch.bfloat16, kind(dim=512), False),
        (torch.bfloat16, LayerKind(4, KVLayerShape(4, 32, 16), AttentionOptions(1.0)), False),
    ],
)
def test_what_flash_attention_lacks_is_known(
    dtype: torch.dtype, one: LayerKind, fits: bool
) -> None:
    assert supports_varlen(hook_of(kind(), one), dtype) == fits


def test_torchs_function_is_called_by_its_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The arguments bind to the installed signature, and to one without what came later."""
    from torch.nn.attention import varlen as torchs

    signature = inspect.signature(torchs.varlen_attn)
    calls = []

    def called(*args: Any, **options: Any) -> torch.Tensor:
        calls.append(signature.bind(*args, **options).arguments)
        query: torch.Tensor = args[0]
        return query

    bound: Any = called
    bound.__signature__ = signature
    monkeypatch.setattr(torchs, "varlen_attn", bound)
    one = kind()
    step = batch((3, 1), (0, 4))
    backend = VarlenBackend([one.shape], 9, PAGE, torch.float32, CPU)
    run_step(backend, one, step, texts(one, step))
    decode, chunk = calls[-2:]
    assert decode["window_size"] == (-1, -1)
    assert decode["block_table"].shape == (1, 1)
    assert decode["seqused_k"].tolist() == [4]
    assert (decode["max_q"], decode["max_k"], decode["enable_gqa"]) == (1, 4, True)
    assert chunk["window_size"] == (-1, 0)
    assert "block_table" not in chunk
    assert varlen_call.has_block_tables()
    names = ("block_table", "seqused_k", "enable_gqa", "num_splits")
    kept = [p for name, p in signature.parameters.items() if name not in names]
    signature = bound.__signature__ = signature.replace(parameters=kept)
    assert not varlen_call.has_block_tables()
    run_step(
        VarlenBackend([one.shape], 9, PAGE, torch.float32, CPU, paged=False),
        one,
        step,
        texts(one, step),
    )
    assert "enable_gqa" not in calls[-1]
