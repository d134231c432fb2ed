"""Sockets of a pool, where zmq by itself would do otherwise."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq.asyncio

from headrace.protocol.sockets import PendingMessages, dealer, router


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """A sender and an asynchronous receiver."""
    context = zmq.asyncio.Context()
    receiver = router(context, f"ipc://{tmp_path}/r")
    sender = dealer(context, f"ipc://{tmp_path}/r", "s")
    yield sender, receiver
    context.destroy(linger=0)


async def test_what_has_arrived_is_taken_and_later_messages_are_still_noticed(
    pair: tuple[Any, Any],
) -> None:
    sender, receiver = pair
    await receiver_knows(sender, receiver)
    # Towards the DEALER, as a worker's outputs go.
    arrived = PendingMessages(sender)
    for round_ in range(3):
        sent = [b"%d.%d" % (round_, number) for number in range(6)]
        for data in sent:
            await receiver.send_multipart([b"s", data])
        taken = [await asyncio.wait_for(sender.recv(), 5)]
        while len(taken) < len(sent):
            few = list(arrived.drain(2))
            assert len(few) <= 2
            taken += few
            await asyncio.sleep(0)
        assert taken == sent
        assert list(arrived.drain(2)) == []


async def receiver_knows(sender: Any, receiver: Any) -> None:
    """A ROUTER can send to a peer only when that has been heard of."""
    await sender.send(b"hello")
    assert await asyncio.wait_for(receiver.recv_multipart(), 5) == [b"s", b"hello"]
