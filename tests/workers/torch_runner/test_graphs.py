"""Which recording a step takes, and what stands in its inputs."""

from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.workers.attention.backend import Span
from headrace.workers.torch_runner.decode_graphs import (
    Bucket,
    CapturedGraph,
    DecodeGraphs,
    DecodeInputs,
    choose_buckets,
)
from tests.workers.recording import Rerun

CPU = torch.device("cpu")
PAGE, SPARE = 4, 99


def inputs_of(bucket: Bucket) -> DecodeInputs:
    return DecodeInputs(bucket, PAGE, SPARE, CPU)


def test_sizes_double_and_then_grow_evenly() -> None:
    sizes = [bucket.num_rows for bucket in choose_buckets(128, 900, saturating_rows=1)]
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 96, 128]
    assert [bucket.num_rows for bucket in choose_buckets(5, 900, 1)] == [1, 2, 4, 5]
    assert [bucket.num_rows for bucket in choose_buckets(1, 900, 1)] == [1]


def test_few_rows_have_several_lengths() -> None:
    buckets = choose_buckets(8, 20_000, saturating_rows=4)
    lengths = {size: [b.longest for b in buckets if b.num_rows == size] for size in (1, 2, 4, 8)}
    assert lengths[1] == lengths[2] == [1024, 4096, 16384, 20_000]
    assert lengths[4] == lengths[8] == [20_000]


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 9000), st.integers(1, 70), st.data())
def test_every_step_finds_the_smallest_recording_that_holds_it(
    rows: int, length: int, enough: int, data: st.DataObject
) -> None:
    buckets = choose_buckets(rows, length, enough)
    assert len(set(buckets)) == len(buckets)
    same: Any = lambda bucket: bucket  # noqa: E731
    graphs = DecodeGraphs(buckets, same, same, lambda function: cast(CapturedGraph, function()))
    count, longest = data.draw(st.integers(1, rows)), data.draw(st.integers(1, length))
    recorded = graphs.find(count, longest)
    assert recorded is not None
    found: Any = recorded[0]
    holding = [b for b in buckets if b.num_rows >= count and b.longest >= longest]
    assert found == min(holding, key=lambda b: (b.num_rows, b.longest))
    assert graphs.find(rows + 1, 1) is None
    assert graphs.find(1, length + 1) is None


def test_inputs_stay_where_they_are_and_spare_rows_read_the_spare_block() -> None:
    inputs = inputs_of(Bucket(4, 12))
    before = [inputs.token_ids.data_ptr(), inputs.tables.pages.table.data_ptr()]
    spans = [Span(0, 1, 2, [7, 5, 6, 8]), Span(1, 1, 9, [3, 2, 1])]
    inputs.fill([40, 41], spans)
    assert inputs.token_ids.tolist() == [40, 41, 0, 0]
    assert inputs.positions.tolist() == [2, 9, 0, 0]
    assert inputs.slots.tolist() == [7 * PAGE + 2, 1 * PAGE + 1, SPARE * PAGE, SPARE * PAGE]
    pages, lengths = inputs.tables.pages, inputs.tables.lengths
    assert pages.used.tolist() == [3, 10, 1, 1]
    assert pages.table.tolist() == [[7, 5, 6], [3, 2, 1], [SPARE, 0, 0], [SPARE, 0, 0]]
    assert lengths.cu_queries.tolist() == [0, 1, 2, 3, 4]
    assert lengths.cu_keys.tolist() == [0, 3, 13, 14, 15]
    assert (lengths.max_queries, lengths.max_keys) == (1, 12)
    inputs.fill([1], [Span(0, 1, 4, [9, 6])])
    assert pages.table[:, :2].tolist() == [[9, 6], *[[SPARE, 0]] * 3]
    assert [inputs.token_ids.data_ptr(), pages.table.data_ptr()] == before


def test_recordings_are_made_once_the_largest_first_and_replayed_on_new_inputs() -> None:
    seen, record = [], Rerun()

    def run(inputs: DecodeInputs) -> torch.Tensor:
        seen.append(len(inputs.token_ids))
        return inputs.token_ids * 10 + inputs.positions

    graphs = DecodeGraphs(choose_buckets(4, 12, 1), inputs_of, run, record)
    assert (seen, record.num_recorded) == ([4, 2, 1], 3)
    recorded = graphs.find(3, 5)
    assert recorded is not None
    inputs, recording = recorded
    output = recording.output
    for tokens in ([1, 2, 3], [6, 5, 4]):
        inputs.fill(tokens, [Span(n, 1, n, [n, n + 1]) for n in range(3)])
        recording.replay()
        assert output.tolist() == [10 * token + n for n, token in enumerate(tokens)] + [0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_graph_reads_the_inputs_of_its_replay() -> None:
    from headrace.workers.torch_runner.cuda_graphs import CudaGraphCapture

    device = torch.device("cuda")
    record = CudaGraphCapture()
    inputs = DecodeInputs(Bucket(2, 12), PAGE, SPARE, device)
    recording = record(lambda: inputs.token_ids * 10 + inputs.positions)
    for tokens in ([1, 2], [6, 5]):
        inputs.fill(tokens, [Span(n, 1, n, [n]) for n in range(2)])
        recording.replay()
        assert recording.output.tolist() == [10 * tokens[0], 10 * tokens[1] + 1]
    with pytest.raises(RuntimeError):
        record(lambda: inputs.token_ids[inputs.token_ids > 0])
    assert int(inputs.token_ids.sum()) == 11  # the device is as usable as before
