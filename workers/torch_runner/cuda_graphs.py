"""Capture functions as CUDA graphs."""

from collections.abc import Callable

import torch

from headrace.workers.torch_runner.decode_graphs import CapturedGraph


class CudaGraphCapture:
    """Captures functions on the current device; all graphs share one memory pool.

    Only one of them may run at a time, which holds on one stream.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], torch.Tensor]) -> CapturedGraph:
        """Capture a function. Raises RuntimeError if it waits for the device: a graph cannot."""
        _check_no_sync(function)
        graph = torch.cuda.CUDAGraph()
        # Of this thread alone: work of other threads is neither captured nor an error.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = function()
        return CapturedGraph(graph.replay, output)


def _check_no_sync(function: Callable[[], torch.Tensor]) -> None:
    """Run the function once to initialise libraries, and again to find waits before the capture.

    Runs on a stream of its own, as captures do: workspaces belong to streams.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
