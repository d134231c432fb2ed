"""What the launcher sends to a worker template: orders to fork a worker.

An order is one message of a Unix socket (SOCK_SEQPACKET), and brings a socket of its own. On that
one the new worker says its pid and waits for GO; its end means that the other side has given up or
is gone. So an order has one outcome, whoever dies meanwhile: a worker that the launcher knows, or
none.
"""

import json
from dataclasses import asdict, dataclass

# The template's first message: it can fork.
READY = b"ready"
# To a worker: the launcher knows it.
GO = b"go"
MAX_BYTES = 65536


@dataclass(frozen=True)
class ForkWorker:
    """arguments: of headrace.workers.main. command_line: what the process is to be seen as.
    environment: what is set beyond the template's own."""

    arguments: list[str]
    command_line: list[str]
    environment: dict[str, str]

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> "ForkWorker":
        return cls(**json.loads(data))
