"""Tables that depend on positions alone: of a rotary embedding, or whatever a module computes.

A module of transformers takes the class that computes it with it, and may keep state. So its
outputs are compared with those of a plain rotary embedding, for all positions: where they agree to
the last bit, the numbers of that embedding replace the module.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from headrace.workers.attention.rope_switch import is_switching
from headrace.workers.native.graph import TableCall

_CHUNK = 4096  # positions that are compared at a time
_MOST_POSITIONS = 131_072  # of a longer model, its first and its last half of these are compared
_ODD_ROWS = (1, 7)  # numbers of positions in a step


@dataclass(frozen=True, slots=True, eq=False)
class RotaryTables:
    """The cosines and sines of a rotary embedding (Su et al., "RoFormer", 2021).

    frequencies: of a pair of numbers [pairs], float32. factor: of the cosines and sines.
    dtype: to which they are rounded. copies: how often a row has them, one after another.
    long_frequencies: of sequences of more tokens than switch_length (longrope; Ding et al., 2024)
        [pairs]; None: of all the same.
    """

    frequencies: torch.Tensor
    factor: float
    dtype: torch.dtype
    copies: int
    long_frequencies: torch.Tensor | None = None
    switch_length: int = 0

    def compute(
        self, positions: torch.Tensor, is_long: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the tables of positions [1, rows]: cosines and sines [1, rows, width].

        is_long: whether a row's sequence is a long one [rows]; None: none is.
        """
        frequencies = self.frequencies
        if is_long is not None and self.long_frequencies is not None:
            frequencies = torch.where(is_long.unsqueeze(-1), self.long_frequencies, frequencies)
        angles = positions.unsqueeze(-1).float() * frequencies
        return self._rounded(angles.cos()), self._rounded(angles.sin())

    def _rounded(self, values: torch.Tensor) -> torch.Tensor:
        return torch.cat([(values * self.factor).to(self.dtype)] * self.copies, dim=-1)


PositionTables = RotaryTables | TableCall


def compute_tables(
    tables: PositionTables, positions: torch.Tensor, is_long: torch.Tensor | None = None
) -> Any:
    """Compute the tables of positions [1, rows], one row for each; is_long: see RotaryTables."""
    if isinstance(tables, RotaryTables):
        return tables.compute(positions, is_long)
    args = [positions if _is_positions(value) else value for value in tables.args]
    kwargs = {k: positions if _is_positions(v) else v for k, v in tables.kwargs.items()}
    return tables.module(*args, **kwargs)


@torch.inference_mode()
def find_rotary(call: TableCall, length: int) -> RotaryTables | None:
    """Return the rotary embedding that a module computes for all positions below `length`.

    None if it computes something else, or its numbers depend on the other positions of a step in
    another way than longrope's, which switch.
    """
    outputs = compute_tables(call, torch.arange(2).unsqueeze(0))
    if not isinstance(outputs, tuple) or len(outputs) != 2 or outputs[0].device.type != "cpu":
        return None
    for tables in _candidates(call.module, outputs[0]):
        if _is_same(tables, call, length):
            return tables
    for tables in _switching_candidates(call, outputs[0]):
        if _is_same(tables, call, length):
            return tables
    return None


def _switching_candidates(call: TableCall, cosines: torch.Tensor) -> Iterator[RotaryTables]:
    module: Any = call.module
    if not is_switching(module) or isinstance(module.rope_type, dict):
        return
    switch_length = module.config.rope_parameters["original_max_position_embeddings"]
    compute_tables(call, torch.tensor([[switch_length]]))  # the module finds the long ones
    found = (module.original_inv_freq, module.long_inv_freq)
    short, long = (frequencies.detach().float().clone() for frequencies in found)
    factor, copies = float(module.attention_scaling), cosines.shape[-1] // len(short)
    yield RotaryTables(short, factor, cosines.dtype, copies, long, switch_length)


def _candidates(module: torch.nn.Module, cosines: torch.Tensor) -> Iterator[RotaryTables]:
    factors = [
        float(value)
        for name, value in vars(module).items()
        if name.endswith("attention_scaling") and isinstance(value, int | float)
    ]
    width = cosines.shape[-1]
    for buffer in module.buffers():
        if buffer.ndim == 1 and width in (len(buffer), 2 * len(buffer)):
            for factor in dict.fromkeys(factors or [1.0]):
                frequencies = buffer.detach().float().clone()
                yield RotaryTables(frequencies, factor, cosines.dtype, width // len(buffer))


def _is_same(tables: RotaryTables, call: TableCall, length: int) -> bool:
    """Compare the outputs, those of the last positions first: a module whose frequencies follow a
    step's length would keep them."""
    for positions in _position_rows(length):
        switches = tables.long_frequencies is not None and positions.max() >= tables.switch_length
        is_long = torch.ones(positions.shape[1], dtype=torch.bool) if switches else None
        theirs, ours = compute_tables(call, positions), tables.compute(positions, is_long)
        if any(not torch.equal(*pair) for pair in zip(theirs, ours, strict=True)):
            return False
    return True


def _position_rows(length: int) -> Iterator[torch.Tensor]:
    half = _MOST_POSITIONS // 2
    for first in reversed(range(0, length, _CHUNK)):
        if length <= _MOST_POSITIONS or first < half or first >= length - half:
            yield torch.arange(first, min(first + _CHUNK, length)).unsqueeze(0)
    for rows in _ODD_ROWS:
        yield torch.arange(min(rows, length)).unsqueeze(0)


def _is_positions(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.long
