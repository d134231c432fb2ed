"""How the engine fails.

WorkerError
├── RequestRefused     one request cannot be taken; the engine goes on
├── AdapterError       an adapter cannot be added or removed; the engine goes on
├── ModelUnsupported   the model cannot be served; the worker does not start
└── EngineFailed       an engine whose step raised is asked to go on
"""


class WorkerError(Exception):
    """A failure with a text of one line."""


class RequestRefused(WorkerError):
    """The request cannot be taken. `reason` is fit to be shown to a client.

    retry_elsewhere: whether another worker of the same model may take it.
    """

    def __init__(self, reason: str, retry_elsewhere: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_elsewhere = retry_elsewhere


class AdapterError(WorkerError):
    """An adapter cannot be added or removed. `reason` is one line, fit to be shown to a client."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ModelUnsupported(WorkerError):
    """The model cannot be served as configured. `reason` is one line for the operator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class EngineFailed(WorkerError):
    """A step has raised, so the engine's state is unknown and it runs no more."""
