"""Numbers to the device without waiting for it.

A copy out of ordinary memory waits until the device has done all that was asked of it before; one
out of pinned memory does not. torch keeps a pinned block back until its copies are over.
"""

from collections.abc import Sequence
from typing import Any

import torch


def upload(values: Sequence[Any], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A tensor of these numbers (or of rows of them, all of one length) on the device."""
    if device.type == "cpu":
        return torch.tensor(values, dtype=dtype)
    return torch.tensor(values, dtype=dtype, pin_memory=True).to(device, non_blocking=True)


def upload_tensor(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on the device of a tensor of the host's; on a CPU the tensor itself."""
    if device.type == "cpu":
        return values
    return values.pin_memory().to(device, non_blocking=True)


def fill(target: torch.Tensor, values: Sequence[Any]) -> None:
    """Overwrite a tensor of the device's, whose address stays, with as many numbers."""
    pinned = target.device.type != "cpu"
    source = torch.tensor(values, dtype=target.dtype, pin_memory=pinned)
    target.copy_(source.view(target.shape), non_blocking=True)


class Download:
    """Tensors on their way to the host, all with one wait at the end."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._done: torch.cuda.Event | None = None
        if any(tensor.is_cuda for tensor in tensors):
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()

    def wait(self) -> list[torch.Tensor]:
        """The tensors on the host, in the order given."""
        if self._done is not None:
            self._done.synchronize()
        return self._copies
