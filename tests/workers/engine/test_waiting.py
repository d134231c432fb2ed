"""Who is next: priorities that age, and fairness to tenants."""

import random
from dataclasses import replace
from typing import Any

import pytest

from headrace.protocol.to_worker import Generate
from headrace.workers.engine import waiting_queue
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.engine.fake_runner import FakeRunner
from headrace.workers.engine.waiting_queue import AGEING_S, CREDIT, WaitingQueue
from headrace.workers.sequence.sequence import Sequence
from tests.workers.driving import request, run


def owned(tenant: str, asked: Generate) -> Generate:
    return replace(asked, tenant=tenant)


class Queue(WaitingQueue[Sequence]):
    """With a clock that a test turns, and names for sequences."""

    def __init__(self) -> None:
        self.now_s = 0.0
        super().__init__(lambda: self.now_s)
        self._arrivals = 0

    def come(self, tenant: str = "", priority: int = 0, prompt: int = 4, **fields: Any) -> Sequence:
        self._arrivals += 1
        asked = request(f"{tenant}{self._arrivals}", range(prompt))
        asked = replace(asked, tenant=tenant, priority=priority, **fields)
        sequence = Sequence.of(asked, self._arrivals, self.now_s)
        self.add(sequence)
        return sequence

    def serve(self, outputs: int = 0) -> Sequence:
        """Admit who is next, and give it so many tokens."""
        sequence = self.first()
        self.admit(sequence, sequence.num_prompt)
        self.charge_outputs(sequence, outputs)
        return sequence

    def order(self) -> list[Sequence]:
        return [self.serve() for _ in range(len(self))]


def test_one_tenants_requests_come_as_they_arrived() -> None:
    queue = Queue()
    arrived = [queue.come() for _ in range(5)]
    assert queue.order() == arrived
    with pytest.raises(IndexError):
        queue.first()


def test_lower_priorities_go_first() -> None:
    queue = Queue()
    late, soon, middle = queue.come(priority=3), queue.come(priority=-2), queue.come()
    assert queue.order() == [soon, middle, late]


def test_a_priority_that_gets_nothing_becomes_more_urgent() -> None:
    queue = Queue()
    slow = [queue.come(priority=2), queue.come(priority=2)]
    served = []
    for _ in range(8):
        queue.come(priority=0)
        served.append(queue.serve().request.priority)
        queue.now_s += AGEING_S
    assert served.count(2) == len(slow)  # and not both at once
    assert 0 in served[served.index(2) + 1 : len(served) - served[::-1].index(2) - 1]


def test_what_has_begun_goes_before_others_of_its_tenant() -> None:
    queue = Queue()
    queue.come("busy")
    replayed = queue.come("busy", is_replay=True)
    urgent = queue.come("other", priority=-1)
    assert queue.order()[:2] == [urgent, replayed]


def test_a_tenant_with_little_need_not_wait_for_one_with_much() -> None:
    queue = Queue()
    for _ in range(100):
        queue.come("much", prompt=10)
    queue.serve(outputs=10)
    little = queue.come("little")
    assert queue.serve() is little


def test_tenants_that_always_wait_are_served_alike_whatever_they_ask_for() -> None:
    """The bound of the paper: twice what one request can cost."""
    queue, rng = Queue(), random.Random(1)
    served = dict.fromkeys("ab", 0)
    waiting_of = dict.fromkeys("ab", 0)
    sizes = {"a": (5, 60), "b": (200, 3)}
    for _ in range(300):
        for tenant, (prompt, _) in sizes.items():
            while waiting_of[tenant] < 2:
                queue.come(tenant, prompt=rng.randint(1, prompt))
                waiting_of[tenant] += 1
        outputs = rng.randint(1, sizes[queue.first().request.tenant][1])
        one = queue.serve(outputs)
        waiting_of[one.request.tenant] -= 1
        served[one.request.tenant] += one.num_prompt + 2 * outputs
        assert abs(served["a"] - served["b"]) <= 2 * (200 + 2 * 60)


def test_a_pause_is_little_credit() -> None:
    """As many tokens as are not worth waiting for, whatever has been served meanwhile."""
    queue = Queue()
    for _ in range(100):
        queue.come("steady")
    for _ in range(50):
        queue.serve(outputs=50)
    back = [queue.come("back") for _ in range(50)]
    turns = [queue.serve(outputs=50) for _ in range(40)]
    each = 4 + 2 * 50
    ahead = sum(one in back for one in turns) - sum(one not in back for one in turns)
    assert abs(ahead * each - CREDIT) <= 2 * each


def shares(queue: Queue, owners: list[tuple[str, str]], turns: int) -> dict[tuple[str, str], int]:
    """How often each owner is served while all of them always wait."""
    served = dict.fromkeys(owners, 0)
    for tenant, user in owners * 2:
        queue.come(tenant, user=user)
    for _ in range(turns):
        owner = queue.serve(outputs=20).owner
        served[owner] += 1
        queue.come(owner[0], user=owner[1])
    return served


def test_users_share_what_their_tenant_gets() -> None:
    """However many users a tenant names, another one's share stays the same."""
    many = [("crowd", f"user{number}") for number in range(9)]
    served = shares(Queue(), [*many, ("single", "")], 180)
    assert abs(served["single", ""] - 90) <= 15
    assert all(abs(served[owner] - 10) <= 3 for owner in many)


def test_a_user_named_like_another_tenant_is_not_that_tenant() -> None:
    owners = [("one", "two"), ("two", ""), ("two", "one")]
    served = shares(Queue(), owners, 200)
    assert abs(served["one", "two"] - 100) <= 15
    assert abs(served["two", ""] - served["two", "one"]) <= 15


def test_memory_of_users_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_queue, "MAX_TENANTS", 10)
    queue = Queue()
    for number in range(100):
        queue.remove(queue.come(f"t{number}", user="one"))
        queue.remove(queue.come("same", user=f"u{number}"))
    assert len(queue.counters._users) <= 11
    assert len(queue.counters.users_of("same")) <= 11


def test_memory_of_tenants_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_queue, "MAX_TENANTS", 10)
    queue = Queue()
    stays = queue.come("stays")
    for number in range(100):
        gone = queue.come(f"t{number}")
        queue.remove(gone)
    assert len(queue.counters.tenants) <= 11
    assert queue.order() == [stays]


def test_a_flood_of_one_tenant_leaves_anothers_text_its_slot() -> None:
    engine = assemble_engine(
        FakeRunner(vocab_size=100, max_model_len=64, num_blocks=64, block_size=16),
        max_num_seqs=2,
        max_num_batched_tokens=32,
    )
    flood = [owned("flood", request(f"f{n}", range(3), max_tokens=10)) for n in range(40)]
    small = owned("small", request("small", range(3), max_tokens=10))
    steps: list[int] = []
    answers = run(engine, [*((0, one) for one in flood), (15, small)], steps.append)
    assert all(answer.finish_reason == "length" for answer in answers.values())
    # In the next slot that becomes free, and not after forty others.
    first: dict[str, float] = {}
    for name, answer in answers.items():
        admission = answer.outputs[0].admission
        assert admission is not None
        first[name] = admission.queue_s
    after_it = [name for name in first if first[name] > first["small"]]
    assert len(after_it) > 30


def test_a_tenant_without_a_slot_gets_one_of_a_full_batch_at_once() -> None:
    """That of a tenant with several; the preempted sequence ends with the same text."""
    runner = FakeRunner(vocab_size=100, max_model_len=256, num_blocks=64, block_size=16)
    engine = assemble_engine(runner, max_num_seqs=3, max_num_batched_tokens=32)
    flood = [owned("flood", request(f"f{n}", range(n, n + 3), max_tokens=200)) for n in range(5)]
    small = [owned(f"s{n}", request(f"s{n}", range(3), max_tokens=9)) for n in range(2)]
    urgent = owned("urgent", request("urgent", range(5), max_tokens=9))
    alone = {one.request_id: run(engine, [(0, one)])[one.request_id].tokens for one in flood}
    begun: dict[str, int] = {}

    def note(step: int) -> None:
        begun.update({name: step for name in running(engine) if name not in begun})

    script = [*((0, one) for one in flood), *((50, one) for one in small), (52, urgent)]
    answers = run(engine, script, note)
    assert {begun["s0"], begun["s1"]} <= {51, 52}
    assert begun["urgent"] >= 58  # the one slot that the flood has left stays its own
    assert {name: answers[name].tokens for name in alone} == alone


def test_a_user_without_a_slot_gets_one_of_another_user_of_its_tenant() -> None:
    """And none of another tenant, which has no more than its share."""
    runner = FakeRunner(vocab_size=100, max_model_len=256, num_blocks=64, block_size=16)
    engine = assemble_engine(runner, max_num_seqs=4, max_num_batched_tokens=32)
    made = [request(f"f{n}", range(n, n + 3), max_tokens=200) for n in range(4)]
    much = [replace(owned("one", each), user="much") for each in made[:2]]
    other = [replace(owned("two", each), user="much") for each in made[2:]]
    little = replace(owned("one", request("little", range(3), max_tokens=9)), user="little")
    begun: dict[str, int] = {}
    left: set[str] = set()

    def note(step: int) -> None:
        now = running(engine)
        left.update(name for name in begun if name not in now and step < 60)
        begun.update({name: step for name in now if name not in begun})

    run(engine, [*((0, one) for one in (*much, *other)), (50, little)], note)
    assert begun["little"] in (51, 52)
    assert left - {"little"} <= {"f0", "f1"}
    assert len(left - {"little"}) == 1


def test_more_urgent_requests_keep_their_slots() -> None:
    runner = FakeRunner(vocab_size=100, max_model_len=256, num_blocks=64, block_size=16)
    engine = assemble_engine(runner, max_num_seqs=2, max_num_batched_tokens=32)
    first = [
        replace(owned("much", request(f"m{n}", range(3), max_tokens=50)), priority=-1)
        for n in range(2)
    ]
    run(engine, [*((0, one) for one in first), (5, owned("little", request("l", range(3))))])
    assert engine.stats().preemptions == 0


def test_a_tenant_that_has_had_more_takes_no_slot() -> None:
    """Else the sequence that it preempts would be next, and preempt again in every step."""
    runner = FakeRunner(vocab_size=100, max_model_len=2048, num_blocks=256, block_size=16)
    engine = assemble_engine(runner, max_num_seqs=2, max_num_batched_tokens=32)
    run(engine, [(0, owned("served", request("s", range(3), max_tokens=500)))])
    fresh = [owned("fresh", request(f"f{n}", range(3), max_tokens=60)) for n in range(2)]
    again = owned("served", request("again", range(3), max_tokens=5))
    run(engine, [*((0, one) for one in fresh), (5, again)])
    assert engine.stats().preemptions == 0


def running(engine: Engine) -> list[str]:
    return [each.request.request_id for each in engine._scheduler.running]
