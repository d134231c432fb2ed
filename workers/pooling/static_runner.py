"""Run a model without layers: the vectors of a text's tokens are rows of a table."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from headrace.protocol.common.pooling.static_embedding import MAPPING, TABLES, WEIGHTS
from headrace.protocol.to_worker import Encode
from headrace.workers.errors import ModelUnsupported
from headrace.workers.pooling.pooler import join_pieces
from headrace.workers.pooling.runner import EncodeResult, TextLimits, TextPooler
from headrace.workers.sequence.engine_adapters import EngineAdapters

_STEP_TOKENS = 131_072


class StaticRunner:
    """A table and what pools its rows; see headrace.workers.pooling.runner.PoolingRunner."""

    default_step_tokens = _STEP_TOKENS

    def __init__(self, table: Tensor, pooler: TextPooler, limits: TextLimits) -> None:
        self.limits = limits
        self._table, self._pooler = table, pooler

    @torch.inference_mode()
    def run(self, requests: Sequence[Encode], report: Callable[[], None]) -> list[EncodeResult]:
        results = []
        for request in requests:
            ids = torch.tensor(request.prompt_token_ids, device=self._table.device)
            results.append(self._pooler.pool(request, self._table[ids]))
            report()
        return results

    def join(self, request: Encode, mean: Sequence[float]) -> EncodeResult:
        return join_pieces(request, mean, self.limits.normalizes)

    def new_adapters(self, max_rank: int) -> EngineAdapters | None:
        """Return none: there are no layers."""
        return None

    def use_adapters(self, adapters: EngineAdapters) -> None:
        """Do nothing: this runner supports no adapters."""

    @property
    def weight_bytes(self) -> int:
        return self._table.nbytes

    def offload_weights(self) -> None:
        """Leave the table where it is: it is small."""

    def restore_weights(self) -> None:
        """Leave the table: it is where it was."""


def read_table(folder: Path) -> Tensor:
    """Return a row for each token, in float32. Raises ModelUnsupported if the file is damaged."""
    file = folder / "model.safetensors"
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelUnsupported(f"{file}: cannot be read") from error
    table = next((tensors[name] for name in TABLES if name in tensors), None)
    if table is None or table.ndim != 2:
        raise ModelUnsupported(f"{file}: has no table of embeddings")
    table = table.float()
    rows, weights = tensors.get(MAPPING), tensors.get(WEIGHTS)
    if rows is not None:
        if rows.ndim != 1 or not bool(((rows >= 0) & (rows < len(table))).all()):
            raise ModelUnsupported(f"{file}: {MAPPING} does not name rows of the table")
        table = table[rows.long()]
    if weights is not None:
        if weights.shape != (len(table),):
            raise ModelUnsupported(f"{file}: {WEIGHTS} are not one for each token")
        table = table * weights.float().unsqueeze(1)
    return table
