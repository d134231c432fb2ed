"""Heartbeats, ages and windows, when the clocks of database and machine are set."""

import pytest
from sqlalchemy import literal

from headrace.frontend.batches.batch_store import BatchStore, new_batch_id
from headrace.frontend.batches.ownership import BatchOwnership
from headrace.frontend.responses.store.conversation_store import ConversationStore
from headrace.frontend.store import clock_steps, silence_watch
from headrace.frontend.store.clock_steps import SETTLE_S, ClockSteps
from headrace.frontend.store.database import Database

DAY = 86400.0
NOW = 1e9
STALE_S = 5.0
OPTIONS = {"endpoint": "/v1/completions", "input_file_id": "file-1", "metadata": None}


class Clocks:
    """A steady clock, and a wall clock that is ahead of it. databases: whose clock it is, too."""

    def __init__(self) -> None:
        self.steady, self.ahead = 1000.0, NOW
        self.databases: list[Database] = []

    def monotonic(self) -> float:
        return self.steady

    def time(self) -> float:
        return self.steady + self.ahead

    def set(self, by_s: float) -> None:
        self.ahead += by_s
        self.pass_by(0.0)

    def pass_by(self, seconds: float) -> None:
        self.steady += seconds
        for each in self.databases:
            each.now = literal(self.time()) + 0.0


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(clock_steps, "steady_time", clocks.monotonic)
    monkeypatch.setattr(f"{clock_steps.__name__}.time.time", clocks.time)
    monkeypatch.setattr(f"{silence_watch.__name__}.time.monotonic", clocks.monotonic)
    return clocks


class Batches:
    """A batch that one frontend runs, and another that may claim it."""

    def __init__(self, url: str, clocks: Clocks) -> None:
        self.database = Database(url)
        clocks.databases.append(self.database)
        clocks.pass_by(0.0)
        self.store = BatchStore(self.database, "v", max_age_s=7 * DAY)
        self.owner, self.other = (BatchOwnership(self.database, "v", name) for name in "ab")

    async def begin(self) -> str:
        batch_id = (await self.store.create(new_batch_id(), "", OPTIONS, DAY)).batch_id
        assert await self.owner.claim(1, STALE_S, lambda found: True)
        return batch_id

    async def is_taken(self) -> bool:
        return bool(await self.other.claim(1, STALE_S, lambda found: True))


@pytest.fixture
def batches(store_url: str, clocks: Clocks) -> Batches:
    return Batches(store_url, clocks)


@pytest.mark.parametrize("by_s", [30 * 3600.0, -30 * 3600.0, 0.0])
async def test_only_an_owner_that_is_silent_by_steady_clocks_has_died(
    batches: Batches, clocks: Clocks, by_s: float
) -> None:
    batch_id = await batches.begin()
    clocks.set(by_s)
    for _ in range(10):
        assert not await batches.is_taken()
        clocks.pass_by(1.0)
        assert batch_id in await batches.owner.renew({batch_id: 1})
    clocks.set(-by_s)
    seconds = 0
    while not await batches.is_taken():
        clocks.pass_by(1.0)
        seconds += 1
        assert seconds < 10
    assert seconds >= 3
    batches.database.close()


async def test_a_pause_of_the_whole_pool_is_nobodys_silence(
    batches: Batches, clocks: Clocks
) -> None:
    batch_id = await batches.begin()
    assert not await batches.is_taken()
    clocks.pass_by(60.0)
    assert not await batches.is_taken()
    clocks.pass_by(1.0)
    assert batch_id in await batches.owner.renew({batch_id: 1})
    for _ in range(4):
        clocks.pass_by(1.0)
        assert not await batches.is_taken()
        assert batch_id in await batches.owner.renew({batch_id: 1})
    batches.database.close()


async def test_a_window_is_not_over_while_the_clock_may_be_wrong(
    batches: Batches, clocks: Clocks
) -> None:
    stored = await batches.store.get("", await batches.begin())
    assert await batches.owner.window_left_s(stored.expires_at) == pytest.approx(DAY)
    clocks.set(2 * DAY)
    assert await batches.owner.window_left_s(stored.expires_at) == pytest.approx(SETTLE_S)
    clocks.pass_by(SETTLE_S)
    assert await batches.owner.window_left_s(stored.expires_at) <= 0.0
    batches.database.close()


async def test_what_a_wrong_clock_has_dated_is_the_oldest(batches: Batches, clocks: Clocks) -> None:
    conversations = ConversationStore(batches.database, max_age_s=DAY, max_count=2)
    clocks.set(DAY)
    for name in ("a", "b"):
        await conversations.create(name, "", {}, [])
    clocks.set(-DAY)
    await conversations.create("c", "", {}, [])
    await conversations.prune()
    assert await conversations.get("c", "") is not None
    clocks.set(400 * DAY)
    await conversations.prune(can_tell_ages=False)
    assert await conversations.get("c", "") is not None
    await conversations.prune()
    assert await conversations.get("c", "") is None
    batches.database.close()


@pytest.mark.parametrize("by_s", [40 * DAY, -40 * DAY])
def test_ages_are_not_believed_soon_after_a_step(
    clocks: Clocks, by_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    steps = ClockSteps()
    assert not steps.are_settled()  # nor soon after the start
    clocks.pass_by(SETTLE_S)
    steps.note_own()
    assert steps.are_settled()
    clocks.set(by_s)
    steps.note_own()
    assert not steps.are_settled()
    assert f"this machine's clock was set by {by_s:+.0f} s" in caplog.text
    clocks.pass_by(SETTLE_S / 2)
    steps.note_own()
    assert not steps.are_settled()
    clocks.pass_by(SETTLE_S / 2)
    steps.note_own()
    assert steps.are_settled()


def test_a_clock_that_is_slewed_is_believed(clocks: Clocks) -> None:
    steps = ClockSteps()
    for _ in range(100):
        clocks.pass_by(60.0)
        clocks.set(30.0)
        steps.note_own()
    assert steps.are_settled()
