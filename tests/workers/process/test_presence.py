"""What a worker shows of itself to the coordinator."""

import os

from headrace.protocol import PROTOCOL_VERSION
from headrace.protocol.pooling import Task
from headrace.protocol.state import READY, STARTING, WorkerStatus
from headrace.protocol.to_coordinator import WorkerDraining, WorkerHello
from headrace.workers.process.presence import Presence


def hello(
    state: WorkerStatus, is_paused: bool = False, adapters: tuple[str, ...] = ()
) -> WorkerHello:
    pid = os.getpid()
    tasks: tuple[Task, ...] = () if state == STARTING else ("generate",)
    return WorkerHello(
        PROTOCOL_VERSION, "g-0.1", "g", pid, "ipc://w", state, is_paused, adapters, tasks
    )


def test_each_change_is_shown_with_what_was_shown_before() -> None:
    sent: list[WorkerHello | WorkerDraining] = []
    presence = Presence("g-0.1", "g", "ipc://w", sent.append)
    presence.greet()
    presence.on_loaded(("1f",), ("generate",))
    presence.on_state(READY)
    presence.on_adapters(("1f", "2f"))
    presence.on_paused(True)
    presence.on_paused(False)
    both = ("1f", "2f")
    assert sent == [
        hello(STARTING),
        hello(READY, adapters=("1f",)),
        hello(READY, adapters=both),
        hello(READY, True, both),
        hello(READY, False, both),
    ]


def test_a_draining_worker_shows_no_more_states_but_answers_to_a_new_coordinator() -> None:
    sent: list[WorkerHello | WorkerDraining] = []
    presence = Presence("g-0.1", "g", "ipc://w", sent.append)
    presence.on_loaded((), ("generate",))
    presence.drain()
    presence.on_state(READY)
    presence.on_paused(True)
    assert sent == [WorkerDraining("g-0.1")]
    presence.greet()
    assert sent[1:] == [hello(READY, True)]
