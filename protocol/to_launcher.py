"""Messages to the launcher, on the control socket."""

from headrace.protocol.codec import Codec, Message
from headrace.protocol.to_worker import Introduce


class StartWorker(Message, tag=2):
    """Start a worker process for a group. worker_id: new for each start. workers_on_host: workers
    that share the machine, itself included."""

    worker_id: str
    group: str
    workers_on_host: int


class KillWorker(Message, tag=3):
    """Kill a worker's process."""

    worker_id: str


class KillFrontend(Message, tag=4):
    """Kill a frontend's process. The launcher, or systemd, starts another."""

    frontend_id: str


ControlMessage = Introduce | StartWorker | KillWorker | KillFrontend

CONTROL = Codec[ControlMessage](ControlMessage)
