"""Messages to the launcher, on the control socket."""

from headrace.protocol.codec import Codec, Message
from headrace.protocol.to_worker import Introduce


class StartWorker(Message, tag=2):
    """Start a worker process for a group; its id is new for each start. workers_on_host: how many
    share the machine with it, itself included."""

    worker_id: str
    group: str
    workers_on_host: int


class KillWorker(Message, tag=3):
    """End a worker's process at once."""

    worker_id: str


class KillFrontend(Message, tag=4):
    """End a frontend's process at once. Who restarts frontends starts another."""

    frontend_id: str


ControlMessage = Introduce | StartWorker | KillWorker | KillFrontend

CONTROL = Codec[ControlMessage](ControlMessage)
