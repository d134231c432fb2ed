"""A worker's side of the data path, without sockets."""

from headrace.protocol.sampling import SamplingParams
from headrace.protocol.state import WorkerLoad
from headrace.protocol.to_frontend import OUTPUTS, Aborted, Output, Rejected, StepOutputs
from headrace.protocol.to_worker import BATCH_PRIORITY, REQUESTS, Abort, EngineRequest, Generate
from headrace.workers.errors import RejectedByEngine
from headrace.workers.process.queue_limits import (
    MAX_RETRY_S,
    MIN_RETRY_S,
    QueueGuard,
    QueueLimits,
)
from headrace.workers.process.service import BEATS, Service

NO_LIMITS = QueueLimits(4)
ONE, TWO = b"frontend-0.0", b"frontend-1.0"


class Wire:
    """A service with what it has submitted to the engine and sent to frontends."""

    def __init__(self, ready: bool = True, limits: QueueLimits = NO_LIMITS) -> None:
        self.submitted: list[EngineRequest | Abort] = []
        self.sent: list[tuple[bytes, StepOutputs | Rejected | Aborted]] = []
        self.unreachable: set[bytes] = set()
        self.load = WorkerLoad(0, 0, 0.0, 0, 0.0)
        self.now_s = 0.0
        guard = QueueGuard(limits, lambda: self.load, lambda: self.now_s)
        self.service = Service("w", self.submitted.append, self._send, guard)
        if ready:
            self.service.open()

    def _send(self, frontend: bytes, data: bytes) -> bool:
        if frontend in self.unreachable:
            return False
        self.sent.append((frontend, OUTPUTS.decode(data)))
        return True

    def generate(
        self,
        frontend: bytes,
        request_id: str,
        prompt: int = 1,
        is_replay: bool = False,
        priority: int = 0,
    ) -> None:
        sampling = SamplingParams(seed=0, max_tokens=1)
        request = Generate(
            request_id, (1,) * prompt, sampling, is_replay=is_replay, priority=priority
        )
        self.service.on_message(frontend, REQUESTS.encode(request))

    def abort(self, frontend: bytes, request_id: str) -> None:
        self.service.on_message(frontend, REQUESTS.encode(Abort((request_id,))))


def test_step_is_one_message_for_each_frontend_numbered_apart() -> None:
    wire = Wire()
    for name in ("a", "b"):
        wire.generate(ONE, name)
    wire.generate(TWO, "c")
    wire.service.on_outputs([Output("a", (1,), 0), Output("b", (2,), 0), Output("c", (3,), 0)])
    wire.service.on_outputs([Output("b", (4,), 1, "stop")])
    assert wire.sent == [
        (ONE, StepOutputs("w", 0, (Output("a", (1,), 0), Output("b", (2,), 0)))),
        (TWO, StepOutputs("w", 0, (Output("c", (3,), 0),))),
        (ONE, StepOutputs("w", 1, (Output("b", (4,), 1, "stop"),))),
    ]
    assert wire.service.in_flight == 2


def test_abort_reaches_the_engine_and_silences_the_request() -> None:
    wire = Wire()
    wire.generate(ONE, "a")
    wire.abort(ONE, "a")
    wire.service.on_outputs([Output("a", (1,), 0)])
    assert wire.submitted[-1] == Abort(("a",))
    assert wire.sent == []
    assert wire.service.in_flight == 0


def test_no_frontend_aborts_another_ones_request() -> None:
    wire = Wire()
    wire.generate(ONE, "a")
    wire.abort(TWO, "a")
    wire.abort(ONE, "unknown")
    assert not any(isinstance(command, Abort) for command in wire.submitted)


def test_refuses_while_loading_and_while_stopping() -> None:
    wire = Wire(ready=False)
    wire.generate(ONE, "a")
    wire.service.open()
    wire.generate(ONE, "b")
    wire.service.close()
    wire.generate(ONE, "c")
    refused = [message for _, message in wire.sent if isinstance(message, Rejected)]
    assert [(each.number, each.request_id, each.retry_elsewhere) for each in refused] == [
        (0, "a", True),
        (1, "c", True),
    ]
    assert len(wire.submitted) == 1


def test_refusal_of_the_engine_and_duplicates_are_told() -> None:
    wire = Wire()
    wire.generate(ONE, "a")
    wire.generate(TWO, "a")
    wire.service.on_rejected("a", RejectedByEngine("too long", retry_elsewhere=False))
    refused = [(to, message) for to, message in wire.sent if isinstance(message, Rejected)]
    assert len(refused) == len(wire.sent)
    assert [(to, message.reason) for to, message in refused] == [
        (TWO, "duplicate request"),
        (ONE, "too long"),
    ]
    assert wire.service.in_flight == 0


def test_frontend_that_cannot_be_reached_finds_the_gap_when_it_is_back() -> None:
    wire = Wire()
    for name in ("a", "b"):
        wire.generate(ONE, name)
    wire.generate(TWO, "c")
    wire.unreachable = {ONE}
    wire.service.on_outputs([Output("a", (1,), 0), Output("c", (2,), 0)])
    assert Abort(("a", "b")) in wire.submitted
    assert wire.service.in_flight == 1
    wire.unreachable = set()
    wire.service.send_heartbeats()
    assert (ONE, StepOutputs("w", 1, ())) in wire.sent


def test_something_follows_the_last_message_for_a_while() -> None:
    wire = Wire()
    wire.generate(ONE, "a")
    wire.service.on_outputs([Output("a", (1,), 0, "stop")])
    wire.sent.clear()
    for _ in range(3 * BEATS):
        wire.service.send_heartbeats()
    assert wire.sent == [(ONE, StepOutputs("w", 1 + beat, ())) for beat in range(BEATS)]


def test_whoever_waits_hears_something_all_the_time() -> None:
    wire = Wire()
    wire.generate(ONE, "a")
    for _ in range(3 * BEATS):
        wire.service.send_heartbeats()
    assert len(wire.sent) == 3 * BEATS


def test_dead_frontend_is_forgotten() -> None:
    wire = Wire()
    wire.generate(ONE, "a")
    wire.service.on_outputs([Output("a", (1,), 0)])
    wire.service.forget_frontend(ONE)
    assert wire.submitted[-1] == Abort(("a",))
    wire.sent.clear()
    wire.service.send_heartbeats()
    assert wire.sent == []


def test_what_is_no_message_is_counted_and_dropped() -> None:
    wire = Wire()
    for data in (b"", b"\xff", b"cos\nsystem\n(S'true'\ntR.", REQUESTS.encode(Abort(()))[:-1]):
        wire.service.on_message(ONE, data)
    assert wire.service.malformed == 4
    assert wire.submitted == []


def refusals(wire: Wire) -> list[Rejected]:
    return [message for _, message in wire.sent if isinstance(message, Rejected)]


def test_places_are_filled_at_once_then_the_queue_and_no_more() -> None:
    """From two frontends, before the engine has made any step."""
    wire = Wire(limits=QueueLimits(max_running=4, max_requests=3))
    for number in range(10):
        wire.generate((ONE, TWO)[number % 2], str(number))
    assert wire.service.in_flight == 4 + 3
    assert [(one.request_id, one.retry_elsewhere) for one in refusals(wire)] == [
        ("7", True), ("8", True), ("9", True)
    ]  # fmt: skip


def test_a_batch_that_the_cache_keeps_small_makes_the_queue_no_longer() -> None:
    wire = Wire(limits=QueueLimits(max_running=4, max_requests=3))
    for number in range(5):
        wire.generate(ONE, str(number))
    wire.load = WorkerLoad(2, 3, 1.0, 1, 0.0)
    wire.generate(ONE, "late")
    assert [one.request_id for one in refusals(wire)] == ["late"]
    wire.abort(ONE, "4")
    wire.generate(ONE, "later")
    assert len(refusals(wire)) == 1


def test_a_step_that_takes_nobody_makes_the_queue_no_shorter() -> None:
    """A place is free for a moment although somebody waits, and the cache has room."""
    wire = Wire(limits=QueueLimits(max_running=2, max_requests=3))
    for number in range(4):
        wire.generate(ONE, str(number))
    wire.load = WorkerLoad(1, 3, 0.1, 1, 0.0)
    for name in ("fifth", "sixth"):
        wire.generate(ONE, name)
    assert [one.request_id for one in refusals(wire)] == ["sixth"]


def test_without_a_queue_only_places_are_filled() -> None:
    wire = Wire(limits=QueueLimits(max_running=2, max_requests=0))
    for name in "abc":
        wire.generate(ONE, name)
    assert [one.request_id for one in refusals(wire)] == ["c"]


def test_prompt_tokens_that_wait_are_bounded_but_one_prompt_always_fits() -> None:
    wire = Wire(limits=QueueLimits(max_running=9, max_tokens=100))
    wire.generate(ONE, "huge", prompt=500)
    wire.generate(ONE, "small")
    assert [one.request_id for one in refusals(wire)] == ["small"]
    wire.service.on_outputs([Output("huge", (1,), 0)])
    wire.generate(ONE, "a", prompt=60)
    wire.generate(TWO, "b", prompt=41)
    wire.generate(TWO, "c", prompt=40)
    assert [one.request_id for one in refusals(wire)] == ["small", "b"]


def test_lines_of_batches_take_no_place_of_the_queue() -> None:
    wire = Wire(limits=QueueLimits(max_running=2, max_requests=2, max_tokens=100))
    for name in ("line", "other line", "third line"):
        wire.generate(ONE, name, prompt=30, priority=BATCH_PRIORITY)
    for name in "abcd":
        wire.generate(ONE, name, prompt=20)
    assert refusals(wire) == []
    wire.generate(ONE, "e", prompt=20)
    wire.generate(ONE, "late line", prompt=1, priority=BATCH_PRIORITY)
    assert [one.request_id for one in refusals(wire)] == ["e", "late line"]
    wire.abort(ONE, "other line")
    wire.service.on_outputs([Output("line", (1,), 0)])
    assert wire.service.waiting_tokens == 30 + 4 * 20


def test_prompt_tokens_wait_until_their_first_answer() -> None:
    wire = Wire()
    wire.generate(ONE, "a", prompt=60)
    wire.generate(TWO, "b", prompt=41)
    assert wire.service.waiting_tokens == 101
    wire.service.on_outputs([Output("a", (1,), 0)])
    assert wire.service.waiting_tokens == 41
    wire.abort(TWO, "b")
    assert wire.service.waiting_tokens == 0


def test_a_replay_is_acknowledged_before_it_has_any_output() -> None:
    wire = Wire()
    wire.generate(ONE, "a")
    assert wire.sent == []
    wire.generate(ONE, "b", is_replay=True)
    assert wire.sent == [(ONE, StepOutputs("w", 0, (Output("b", (), 0),)))]


def test_what_another_worker_has_begun_is_never_refused_for_want_of_room() -> None:
    wire = Wire(limits=QueueLimits(max_running=1, max_requests=0, max_tokens=1))
    for name in "abc":
        wire.generate(ONE, name, is_replay=True)
    assert refusals(wire) == []


def test_whoever_is_refused_hears_when_the_queue_will_have_been_served() -> None:
    wire = Wire(limits=QueueLimits(max_running=2, max_requests=8))
    for number in range(10):
        wire.generate(ONE, str(number))
    wire.generate(ONE, "x")
    assert refusals(wire)[-1].retry_after_s == MIN_RETRY_S  # nothing is known yet
    wire.load = WorkerLoad(2, 8, 1.0, 1, 0.0)
    for number in range(3):  # one every two seconds
        wire.now_s += 2.0
        wire.service.on_outputs([Output(str(number), (1,), 0, "stop")])
        wire.generate(ONE, f"y{number}")
    wire.generate(ONE, "z")
    assert refusals(wire)[-1].retry_after_s == 8 * 2.0
    wire.now_s += 1000.0
    wire.generate(ONE, "w")
    assert refusals(wire)[-1].retry_after_s == MAX_RETRY_S
