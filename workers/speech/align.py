"""Find out when tokens are spoken, from the decoder's attention to the encoder's vectors.

Source: dynamic time warping over the attention of heads that follow the speech, as in the code
published with Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022).
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

_FILTER_WIDTH = 7  # positions of the median filter
_EPSILON = 1e-10

_Costs = npt.NDArray[np.float32]


def token_starts(scores: Tensor, first: int, frames: int, seconds: float) -> tuple[float, ...]:
    """Return when the tokens of a prompt from number `first` on begin, and when the last ends.

    scores: of heads before their softmax, as exponents of two [heads, tokens, positions].
    frames: positions that hold sound. seconds: between two positions.
    """
    frames = max(1, min(frames, scores.shape[2]))
    weights = torch.softmax(scores[:, :, :frames] * math.log(2.0), dim=-1)
    spread, mean = torch.std_mean(weights, dim=1, keepdim=True, correction=0)
    weights = _median_filter((weights - mean) / (spread + _EPSILON))
    # The vector of a token attends to the sound of the next one.
    matrix = weights.mean(dim=0)[first - 1 : -1]
    rows, columns = _warp(-matrix.numpy())
    begins = np.concatenate(([True], np.diff(rows) > 0))
    starts = [float(column) * seconds for column in columns[begins]]
    return (*starts, frames * seconds)


def _median_filter(weights: Tensor) -> Tensor:
    """Replace each position by the median of those around it."""
    half = _FILTER_WIDTH // 2
    if weights.shape[2] <= half:
        return weights
    padded = functional.pad(weights, (half, half), mode="reflect")
    return padded.unfold(2, _FILTER_WIDTH, 1).median(dim=-1).values


def _warp(costs: _Costs) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the rows and columns of the cheapest path through costs [rows, columns].

    It leads from the first of both to the last of both, in steps of one in either or in both. The
    costs of paths are computed diagonal by diagonal, all rows of one at a time.
    """
    height, width = costs.shape
    total = np.full((height + 1, width + 1), np.inf, dtype=np.float64)
    total[0, 0] = 0.0
    for diagonal in range(2, height + width + 1):
        i = np.arange(max(1, diagonal - width), min(height, diagonal - 1) + 1)
        j = diagonal - i
        before = np.minimum(np.minimum(total[i - 1, j - 1], total[i - 1, j]), total[i, j - 1])
        total[i, j] = costs[i - 1, j - 1] + before
    return _trace(total)


def _trace(total: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Follow the cheapest path back from the end of total [rows + 1, columns + 1]."""
    row, column = total.shape[0] - 1, total.shape[1] - 1
    path = []
    while row > 0 and column > 0:
        path.append((row - 1, column - 1))
        both, up, left = (
            total[row - 1, column - 1],
            total[row - 1, column],
            total[row, column - 1],
        )
        if both < up and both < left:
            row, column = row - 1, column - 1
        elif up < both and up < left:
            row -= 1
        else:
            column -= 1
    found = np.array(path[::-1], dtype=np.int64)
    return found[:, 0], found[:, 1]
