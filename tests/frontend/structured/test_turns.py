"""Which waiter gets the next permit, and which is rejected."""

import asyncio

from headrace.frontend.structured.fair_semaphore import FairSemaphore, WaitTimeout


async def test_of_too_many_those_of_the_client_that_has_most_give_way() -> None:
    turns = FairSemaphore(1, max_waiting=3, max_wait_s=60)
    taken: list[str] = []

    async def take(client: str) -> None:
        async with turns.acquire(client):
            taken.append(client)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(take(client)) for client in "abaaacaa"]
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(taken) == ["a", "a", "b", "c"]
    assert sum(isinstance(outcome, WaitTimeout) for outcome in outcomes) == 4
    assert not turns._waiting


async def test_turns_are_not_lost_when_those_who_wait_are_cancelled() -> None:
    turns = FairSemaphore(1, max_waiting=9, max_wait_s=60)
    taken: list[int] = []

    async def take(number: int) -> None:
        async with turns.acquire():
            taken.append(number)
            await asyncio.sleep(0)

    for loser in range(6):
        tasks = [asyncio.create_task(take(number)) for number in range(3)]
        for _ in range(loser):
            await asyncio.sleep(0)
        tasks[2].cancel()  # before, as and after it gets its permit
        await asyncio.gather(*tasks, return_exceptions=True)
    taken.clear()
    await asyncio.wait_for(take(9), 5)
    assert taken == [9]
    assert not turns._waiting
