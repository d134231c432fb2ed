"""Unions of messages within messages survive the codec, and only as they were declared."""

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.protocol.codec import Codec, DecodeError, Message
from tests.protocol.test_codec import RAW, Both, Loud, Quiet, check_decode, form, messages


class Ordered(Message, tag=7):
    order: Quiet | Loud | Both | None


@given(messages(Ordered))
def test_unions_within_messages_survive(message: Ordered) -> None:
    codec = Codec[Ordered](Ordered)
    data = codec.encode(message)
    assert codec.decode(data) == message
    assert type(codec.decode(data).order) is type(message.order)
    assert data == msgpack.packb(form(message))


@given(messages(Ordered), st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_unions_are_harmless(message: Ordered, data: st.DataObject) -> None:
    codec = Codec[Ordered](Ordered)
    raw = msgpack.unpackb(codec.encode(message))
    if isinstance(raw[1], list):
        raw[1][data.draw(st.integers(0, len(raw[1]) - 1))] = data.draw(RAW)
    check_decode(codec, msgpack.packb(raw))


@pytest.mark.parametrize(
    "order",
    [
        [4, 1, "wait"],  # no such tag
        [9, {}, None, True, b"", []],  # another codec's
        [1, 3, "wait"],  # none of the values
        [1, True, "wait"],
        [1, 1.0, "wait"],
        [1, 1, "Wait"],
        [1, 1, b"wait"],
        [1, 1, "wait", None],
        [1],
        [],
        [2, [1, 2]],
        [2, {"number": 1}],
        [3, [1, 1], [[4, 1]], {}],
        [3, None, [], {}],
        {"level": 1},
        "wait",
    ],
)
def test_unions_within_messages_are_checked(order: Any) -> None:
    codec = Codec[Ordered](Ordered)
    assert codec.decode(msgpack.packb([7, [1, 1, "wait"]])).order == Quiet(1)
    with pytest.raises(DecodeError):
        codec.decode(msgpack.packb([7, order]))
