"""Orders of the launcher to a fork server: fork a worker.

An order is one message on a Unix socket (SOCK_SEQPACKET) and carries a socket of its own. There the
new worker sends its pid and waits for GO; a closed socket means that the other side has given up or
has died. So an order has one outcome whichever process dies meanwhile: a worker that the launcher
knows, or none.
"""

import json
from dataclasses import asdict, dataclass

# The fork server's first message: it can fork.
READY = b"ready"
# To a worker: the launcher knows it.
GO = b"go"
MAX_BYTES = 65536


@dataclass(frozen=True)
class ForkWorker:
    """An order. arguments: of headrace.workers.main. command_line: what ps shows for the worker.
    environment: variables set in addition to the fork server's own."""

    arguments: list[str]
    command_line: list[str]
    environment: dict[str, str]

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> "ForkWorker":
        return cls(**json.loads(data))
