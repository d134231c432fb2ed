"""Copy numbers to the device and back without waiting for it.

A copy from pageable memory waits until the device has finished all earlier work; a copy from pinned
memory does not. torch reuses a pinned block only after its copies have finished.
"""

from collections.abc import Sequence
from typing import Any

import torch


def upload(values: Sequence[Any], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return a tensor of these numbers, or of rows of equal length, on the device."""
    if device.type == "cpu":
        return torch.tensor(values, dtype=dtype)
    return torch.tensor(values, dtype=dtype, pin_memory=True).to(device, non_blocking=True)


def upload_tensor(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a host tensor to the device; on a CPU, return the tensor itself."""
    if device.type == "cpu":
        return values
    return values.pin_memory().to(device, non_blocking=True)


def fill(target: torch.Tensor, values: Sequence[Any]) -> None:
    """Overwrite a tensor on the device, at its address, with the same number of numbers."""
    pinned = target.device.type != "cpu"
    source = torch.tensor(values, dtype=target.dtype, pin_memory=pinned)
    target.copy_(source.view(target.shape), non_blocking=True)


class Download:
    """A copy of tensors to the host, with one wait for all of them."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._done: torch.cuda.Event | None = None
        if any(tensor.is_cuda for tensor in tensors):
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()

    def wait(self) -> list[torch.Tensor]:
        """Wait for the copies; return the tensors on the host, in the order given."""
        if self._done is not None:
            self._done.synchronize()
        return self._copies
