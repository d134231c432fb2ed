"""Pool without a model: numbers are a pure function of the tokens.

For tests, and for measuring all but the model. Each number comes from a checksum of the tokens, of
its index and, for numbers of a token, of the token's position; vectors have length 1.
"""

import math
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from operator import mul
from zlib import crc32

from headrace.protocol.to_frontend import Pooled
from headrace.protocol.to_worker import Encode
from headrace.workers.lora.fake import FakeAdapters
from headrace.workers.pooling.runner import EncodeResult, TextLimits
from headrace.workers.sequence.engine_adapters import EngineAdapters
from headrace.workers.sequence.sequence import Failure


class FakePoolingRunner:
    """A runner that takes `step_s` seconds a step and runs nothing."""

    default_step_tokens = 8192

    def __init__(self, limits: TextLimits, step_s: float = 0.0) -> None:
        self.limits = limits
        self._step_s = step_s
        self._adapters = FakeAdapters()

    def new_adapters(self, max_rank: int) -> FakeAdapters:
        return FakeAdapters()

    def use_adapters(self, adapters: EngineAdapters) -> None:
        assert isinstance(adapters, FakeAdapters)
        self._adapters = adapters

    def run(self, requests: Sequence[Encode], report: Callable[[], None]) -> list[EncodeResult]:
        if self._step_s:
            time.sleep(self._step_s)
        return [self._encode(request) for request in requests]

    def join(self, request: Encode, mean: Sequence[float]) -> EncodeResult:
        length = math.hypot(*mean) or 1.0
        if request.activates is False:
            length = 1.0
        return _pooled([[number / length for number in mean]], (len(mean),))

    @property
    def weight_bytes(self) -> int:
        return 0

    def offload_weights(self) -> None:
        """Do nothing: there are none."""

    def restore_weights(self) -> None:
        """Do nothing: there are none."""

    def _encode(self, request: Encode) -> EncodeResult:
        if request.number_format != "float32":
            return Failure("rejected", "embed_dtype: the fake engine has float32 alone")
        width = request.dimensions or self.limits.size
        normalizes = request.activates is not False
        text = request.prompt_token_ids[request.prompt_length :]
        if request.adapter:
            text = (*text, self._adapters.checksum(request.adapter))
        if request.task in ("classify", "score"):
            return _pooled([_label_scores(text, width)], (width,))
        if request.task == "token_classify":
            rows = [_label_scores((*text[:end], end), width) for end in range(len(text))]
            return _pooled(rows, (len(rows), width))
        if request.task == "embed":
            return _pooled([_vector(text, width, normalizes)], (width,))
        rows = [_vector((*text[:end], end), width, normalizes) for end in range(len(text))]
        if request.compared_with:
            return _pooled([[_late_interaction(request.compared_with, rows)]], (1,))
        return _pooled(rows, (len(rows), width))


def _late_interaction(query: bytes, rows: Sequence[Sequence[float]]) -> float:
    """Compare a query's vectors with a text's, as headrace.workers.pooling.pooler does."""
    numbers, width = array("f", query), len(rows[0])
    vectors = [numbers[start : start + width] for start in range(0, len(numbers), width)]
    score: float = sum(max(sum(map(mul, vector, row)) for row in rows) for vector in vectors)
    return score


def _vector(token_ids: Sequence[int], width: int, normalizes: bool) -> list[float]:
    seed = crc32(array("q", token_ids))
    numbers = [crc32(index.to_bytes(8, sys.byteorder), seed) / 2**31 - 1 for index in range(width)]
    length = math.sqrt(sum(number * number for number in numbers)) or 1.0
    return [number / length for number in numbers] if normalizes else numbers


def _label_scores(token_ids: Sequence[int], width: int) -> list[float]:
    """Return numbers from 0 to 1, which add up to 1 where there are several."""
    scores = [number + 1 for number in _vector(token_ids, width, normalizes=False)]
    total = sum(scores) if width > 1 else 2
    return [score / total for score in scores]


def _pooled(rows: Sequence[Sequence[float]], shape: tuple[int, ...]) -> Pooled:
    return Pooled(b"".join(array("f", row).tobytes() for row in rows), shape)
