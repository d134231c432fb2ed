"""Drives engines that pool, and reads their numbers."""

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.protocol.pooling import PoolingTask
from headrace.protocol.to_frontend import Output, Pooled
from headrace.protocol.to_worker import Encode
from headrace.workers.pooling.engine import PoolingEngine


def encode(name: str, ids: Iterable[int], task: PoolingTask = "embed", **fields: Any) -> Encode:
    return Encode(name, tuple(ids), task, **fields)


def run(engine: PoolingEngine, requests: Sequence[Encode]) -> dict[str, Output]:
    """Queue all requests and step until none is left."""
    for request in requests:
        engine.add(request)
    found: dict[str, Output] = {}
    while engine.has_work:
        for output in engine.step():
            assert output.request_id not in found
            found[output.request_id] = output
    return found


def numbers(pooled: Pooled | None) -> npt.NDArray[np.float64]:
    assert pooled is not None
    flat = array("f")
    flat.frombytes(pooled.data)
    return np.array(flat, dtype=np.float64).reshape(pooled.shape)


def cosine(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
