"""Lower several graphs to one list of instructions, whose sections are run one at a time."""

from collections.abc import Sequence

from headrace.protocol.config import Quantization
from headrace.workers.native.graph import Graph
from headrace.workers.native.instructions import Lowered, Op, share_buffers
from headrace.workers.native.lower import lower


def lower_sections(
    graphs: Sequence[Graph], per_word: int, quantization: Quantization | None = None
) -> Lowered:
    """Lower graphs to sections, which share buffers, weights, caches and threads.

    They take no adapters, and only the last has tables of positions. See `lower`.
    """
    parts = [lower(graph, per_word, quantization) for graph in graphs]
    ops: list[Op] = []
    ends = []
    for part in parts:
        ops += part.ops
        ends.append(len(ops))
    for op in ops:
        for operand in (*op.inputs, op.out):
            if operand.buffer is not None:
                operand.buffer.number = -1  # numbered anew, among all
    return Lowered(
        ops=tuple(ops),
        buffers=tuple(share_buffers(ops)),
        tables=parts[-1].tables,
        num_layers=max(part.num_layers for part in parts),
        sections=tuple(ends),
    )
