"""Recording a function as a CUDA graph."""

from collections.abc import Callable

import torch

from headrace.workers.torch_runner.decode_graphs import CapturedGraph


class CudaGraphCapture:
    """Records functions on the current device; all recordings share one pool of memory.

    Only one of them may run at a time, which is so on one stream.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], torch.Tensor]) -> CapturedGraph:
        """RuntimeError if the function waits for the device, which no graph can."""
        _check_no_sync(function)
        graph = torch.cuda.CUDAGraph()
        # Of this thread alone: what others do meanwhile is no part of it, nor an error.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = function()
        return CapturedGraph(graph.replay, output)


def _check_no_sync(function: Callable[[], torch.Tensor]) -> None:
    """Run once, so that libraries set themselves up, and find waits before they spoil a capture.

    On a stream of its own, as captures are: workspaces belong to streams.
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
