"""Every message survives its codec, and no bytes do worse to a decoder than DecodeError."""

import dataclasses
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.protocol.codec import MAX_MESSAGE_BYTES, Codec, DecodeError, Message
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.state import FrontendLoad, PoolState, WorkerLoad
from headrace.protocol.to_coordinator import CONTROL, WorkerHeartbeat, WorkerTotals
from headrace.protocol.to_frontend import OUTPUTS, Logprobs, Output, StepOutputs
from headrace.protocol.to_worker import REQUESTS, Abort, Generate, Introduce


def find_codecs() -> dict[str, Codec[Any]]:
    """All codecs of the package, so that one which is added later is tested, too."""
    codecs = {}
    folder = str(Path(inspect.getfile(Codec)).parent)
    for module_info in pkgutil.walk_packages([folder], "headrace.protocol."):
        module = importlib.import_module(module_info.name)
        for name, value in vars(module).items():
            if isinstance(value, Codec):
                codecs[f"{module_info.name}.{name}"] = value
    return codecs


CODECS = find_codecs()
MESSAGES = [
    pytest.param(codec, cls, id=f"{name}:{cls.__name__}")
    for name, codec in CODECS.items()
    for cls in codec.messages
]

INTS = st.integers(-(2**63), 2**64 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["", "\0", "\ufeff", "\U0010ffff", "e\u0301", "\u202e abc", "\U0001f468\u200d\U0001f469"]
)
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    int: INTS,
    float: st.floats(allow_nan=False),
    str: TEXTS,
    bool: st.booleans(),
    bytes: st.binary(max_size=30),
}


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type."""
    if dataclasses.is_dataclass(hint):
        return messages(typing.cast(type[Any], hint))
    if hint in SCALARS:
        return SCALARS[hint]
    arguments = typing.get_args(hint)
    if hint is types.NoneType:
        return st.none()
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return st.one_of([values(argument) for argument in arguments])
    if typing.get_origin(hint) is typing.Literal:
        return st.sampled_from(arguments)
    if typing.get_origin(hint) is tuple and arguments[1:] == (...,):
        return st.lists(values(arguments[0]), max_size=5).map(tuple)
    if typing.get_origin(hint) is dict and arguments[0] is str:
        return st.dictionaries(TEXTS, values(arguments[1]), max_size=5)
    raise AssertionError(f"the codec has no form for {hint}")


def messages(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Messages of a class, by its type hints."""
    hints = typing.get_type_hints(cls)
    return st.builds(
        cls, **{field.name: values(hints[field.name]) for field in dataclasses.fields(cls)}
    )


SENT = st.one_of(
    [
        st.tuples(st.just(codec), messages(cls))
        for codec in CODECS.values()
        for cls in codec.messages
    ]
)

RAW = st.recursive(
    st.none()
    | st.booleans()
    | INTS
    | st.floats()
    | TEXTS
    | st.binary(max_size=10)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20))
    | st.builds(msgpack.Timestamp, st.integers(0, 2**63 - 1), st.integers(0, 10**9 - 1)),
    lambda inner: (
        st.lists(inner, max_size=8)
        | st.dictionaries(TEXTS | INTS | st.binary(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


def check_decode(codec: Codec[Any], data: bytes) -> None:
    """`data` is rejected, or is a message that its codec takes and can send again."""
    try:
        message = codec.decode(data)
    except DecodeError:
        return
    assert type(message) in codec.messages
    again = codec.encode(message)
    assert codec.encode(codec.decode(again)) == again


def test_the_codecs_are_found() -> None:
    assert {id(REQUESTS), id(OUTPUTS), id(CONTROL)} <= {id(codec) for codec in CODECS.values()}
    assert len(MESSAGES) >= 15


@pytest.mark.parametrize(("codec", "cls"), MESSAGES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_message_survives(codec: Codec[Any], cls: type[Any], data: st.DataObject) -> None:
    message = data.draw(messages(cls))
    decoded = codec.decode(codec.encode(message))
    assert type(decoded) is cls
    assert decoded == message
    assert list(map(type, dataclasses.astuple(decoded))) == list(
        map(type, dataclasses.astuple(message))
    )


@given(st.binary(max_size=200), st.sampled_from(list(CODECS.values())))
@settings(max_examples=150, deadline=None)
@example(b"", REQUESTS)
@example(b"\xc1", REQUESTS)
def test_random_bytes_are_harmless(data: bytes, codec: Codec[Any]) -> None:
    check_decode(codec, data)


@given(RAW, st.sampled_from(list(CODECS.values())))
@settings(max_examples=150, deadline=None)
def test_msgpack_of_the_wrong_shape_is_harmless(raw: Any, codec: Codec[Any]) -> None:
    check_decode(codec, msgpack.packb(raw))


@given(SENT, st.data())
@settings(max_examples=200, deadline=None)
def test_fields_of_the_wrong_type_are_harmless(sent: Any, data: st.DataObject) -> None:
    codec, message = sent
    raw = msgpack.unpackb(codec.encode(message))
    index = data.draw(st.integers(0, len(raw) - 1))
    raw[index] = data.draw(RAW)
    check_decode(codec, msgpack.packb(raw))


@given(
    SENT,
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 3), st.binary(max_size=9)), max_size=4),
    st.integers(0, 500),
)
@settings(max_examples=250, deadline=None)
def test_damaged_messages_are_harmless(
    sent: Any, edits: list[tuple[int, int, bytes]], keep: int
) -> None:
    codec, message = sent
    data = codec.encode(message)
    for at, removed, added in edits:
        at %= len(data) + 1
        data = data[:at] + added + data[at + removed :]
    check_decode(codec, data)
    check_decode(codec, data[:keep])


@given(SENT, st.data())
@settings(max_examples=200, deadline=None)
def test_a_message_cut_short_or_with_more_behind_it_is_refused(
    sent: Any, data: st.DataObject
) -> None:
    codec, message = sent
    encoded = codec.encode(message)
    keep = data.draw(st.integers(0, len(encoded) - 1))
    for damaged in (encoded[:keep], encoded + b"\0", encoded + encoded):
        with pytest.raises(DecodeError):
            codec.decode(damaged)


def array(length: int) -> bytes:
    return b"\xdd" + length.to_bytes(4, "big")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x91" * 100_000 + b"\xc0", id="deep arrays"),
        pytest.param(b"\x92\x01" + b"\x91" * 400 + b"\xc0", id="deep field"),
        pytest.param(b"\x92\x01" + b"\x81\xa1a" * 100_000, id="deep maps"),
        pytest.param(array(2**32 - 1), id="huge array"),
        pytest.param(b"\x92\x01" + array(2**32 - 1) + b"\xc0", id="huge inner array"),
        pytest.param(b"\xdf\xff\xff\xff\xff", id="huge map"),
        pytest.param(b"\x92\x01\xdb\xff\xff\xff\xffab", id="huge string"),
        pytest.param(b"\x92\x01\xc6\xff\xff\xff\xffab", id="huge bytes"),
        pytest.param(b"\x92\x01\xc9\xff\xff\xff\xff\x01ab", id="huge ext"),
        pytest.param(b"\x92\x01\xd6\xff\x00\x00\x00\x00", id="timestamp"),
        pytest.param(b"\x92\x01\xd4\x05\x00", id="ext"),
        pytest.param(b"\x92\x01\xa2\xff\xfe", id="not UTF-8"),
        pytest.param(b"\x92\x01\x81\x91\x01\x01", id="list as key"),
        pytest.param(b"\x92\xc3\x90", id="true as tag"),
        pytest.param(b"\x92\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00\x90", id="1.0 as tag"),
        pytest.param(b"\x91\x7f", id="unknown tag"),
        pytest.param(b"\x90", id="no tag"),
        pytest.param(b"\x01", id="no array"),
        pytest.param(b"\x92\x01\x91\xc3", id="true as an id"),
        pytest.param(b"\x80\x04\x95\x0e\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.", id="pickle"),
    ],
)
@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_what_is_no_message_is_refused(codec: Codec[Any], data: bytes) -> None:
    with pytest.raises(DecodeError):
        codec.decode(data)


def test_a_message_above_the_limit_is_refused_unread() -> None:
    with pytest.raises(DecodeError, match="too large"):
        REQUESTS.decode(bytes(MAX_MESSAGE_BYTES + 1))


def test_whole_numbers_are_taken_for_floats() -> None:
    """Python's types let an int stand for a float, so senders may well do so."""
    sampling = SamplingParams(seed=0, max_tokens=1, temperature=0, top_p=1)
    request = REQUESTS.decode(REQUESTS.encode(Generate("a", (1,), sampling)))
    assert isinstance(request, Generate)
    assert request.sampling == sampling
    assert type(request.sampling.temperature) is float

    logprobs = Logprobs(1, 0, 1, (1, 2), (0, -1.5))
    step = StepOutputs("w", 0, (Output("a", (1,), 0, logprobs=(logprobs,)),))
    decoded = OUTPUTS.decode(OUTPUTS.encode(step))
    assert decoded == step
    assert isinstance(decoded, StepOutputs)
    (got,) = decoded.outputs[0].logprobs or ()
    assert {type(value) for value in (got.logprob, *got.top_logprobs)} == {float}


def test_true_is_no_number() -> None:
    heartbeat = WorkerHeartbeat("w", WorkerLoad(1, 2, 0.5, 3, 0.0), WorkerTotals(1, 2, 3, 4))
    raw = msgpack.unpackb(CONTROL.encode(heartbeat))
    for index in range(5):
        load = [*raw[2][:index], True, *raw[2][index + 1 :]]
        wrong = [*raw[:2], load, *raw[3:]]
        with pytest.raises(DecodeError):
            CONTROL.decode(msgpack.packb(wrong))


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_codec_takes_what_its_type_says(codec: Codec[Any]) -> None:
    """What receivers match on is what mypy checks their cases against."""
    (declared,) = typing.get_args(vars(codec)["__orig_class__"])
    assert codec.messages == (typing.get_args(declared) or (declared,))
    assert {type(cls.__struct_config__.tag) for cls in codec.messages} == {int}


def test_a_message_for_somebody_else_is_not_sent() -> None:
    state = PoolState("e", 1, (), (), ())
    with pytest.raises(KeyError):
        REQUESTS.encode(typing.cast(Any, state))
    with pytest.raises(KeyError):
        REQUESTS.encode(typing.cast(Any, FrontendLoad(1)))


def form(value: Any) -> Any:
    """What another implementation of msgpack packs to the same bytes."""
    if isinstance(value, Message):
        tag = type(value).__struct_config__.tag
        fields = [form(getattr(value, field.name)) for field in dataclasses.fields(value)]
        return fields if tag is None else [tag, *fields]
    if isinstance(value, tuple):
        return [form(item) for item in value]
    if isinstance(value, dict):
        return {key: form(item) for key, item in value.items()}
    return value


@given(SENT)
@settings(max_examples=200, deadline=None)
def test_a_message_is_a_tagged_array(sent: Any) -> None:
    codec, message = sent
    assert codec.encode(message) == msgpack.packb(form(message))


def test_the_form_on_the_wire() -> None:
    """Other versions have to understand it: a tag and the fields in their order."""
    assert msgpack.unpackb(REQUESTS.encode(Abort(("a", "b")))) == [2, ["a", "b"]]
    introduce = next(c for c in CODECS.values() if Introduce in c.messages)
    assert msgpack.unpackb(introduce.encode(Introduce())) == [1]


class Inner(Message):
    number: int | None


class Other(Message, tag=9):
    maps: dict[str, Inner]
    maybe: Inner | None
    flag: bool
    raw: bytes
    several: tuple[tuple[int, ...], ...]


@given(messages(Other))
def test_shapes_that_later_messages_may_have(message: Other) -> None:
    codec = Codec[Other](Other)
    assert codec.decode(codec.encode(message)) == message


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.__setitem__(1, {1: [1]}),
        lambda raw: raw.__setitem__(1, {b"a": [1]}),
        lambda raw: raw.__setitem__(1, {"a": 1}),
        lambda raw: raw.__setitem__(2, {}),
        lambda raw: raw.__setitem__(3, 1),
        lambda raw: raw.__setitem__(4, "text"),
        lambda raw: raw.__setitem__(5, [1]),
        lambda raw: raw.__setitem__(5, [["a"]]),
        lambda raw: raw.append(None),
        lambda raw: raw.pop(),
    ],
)
def test_such_shapes_are_checked(change: Callable[[list[Any]], None]) -> None:
    codec = Codec[Other](Other)
    raw = msgpack.unpackb(codec.encode(Other({"a": Inner(1)}, None, True, b"", ((1,),))))
    change(raw)
    with pytest.raises(DecodeError):
        codec.decode(msgpack.packb(raw))


class Quiet(Message, tag=1):
    level: typing.Literal[1, 2]
    mode: typing.Literal["wait", "abort"] = "wait"


class Loud(Message, tag=2):
    inner: Inner
    names: tuple[str, ...] = ()


class Both(Message, tag=3):
    first: Quiet | Loud
    rest: tuple[Quiet | Loud, ...]
    named: dict[str, Quiet | Loud | None]


def test_messages_of_one_codec_cannot_be_confused() -> None:
    class Again(Message, tag=1):
        level: int

    for wrong in (Quiet | Again, Quiet | Inner):
        with pytest.raises(TypeError):
            Codec[Any](wrong)


def test_a_sender_may_leave_out_new_fields_and_add_none() -> None:
    """Fields with a default may have been added after its version."""
    codec = Codec[Quiet | Loud](Quiet | Loud)
    assert codec.decode(msgpack.packb([1, 2])) == Quiet(2, "wait")
    assert codec.decode(msgpack.packb([2, [None]])) == Loud(Inner(None))
    for wrong in ([1], [2], [2, []], [1, 2, "wait", 0], [2, [None, 0]]):
        with pytest.raises(DecodeError):
            codec.decode(msgpack.packb(wrong))


def test_subclasses_of_plain_types_are_sent_as_these() -> None:
    class Text(str):
        __slots__ = ()

    class Real(float):
        __slots__ = ()

    class Whole(int):
        __slots__ = ()

    logprobs = Logprobs(Whole(5), Real(-0.5), 1, (Whole(7),), (Real(0.25),))
    sent = StepOutputs(Text("w"), 0, (Output(Text("a"), (1,), 0, logprobs=(logprobs,)),))
    decoded = OUTPUTS.decode(OUTPUTS.encode(sent))
    assert decoded == StepOutputs(
        "w", 0, (Output("a", (1,), 0, logprobs=(Logprobs(5, -0.5, 1, (7,), (0.25,)),)),)
    )
    with pytest.raises(TypeError, match="object cannot be sent"):
        OUTPUTS.encode(StepOutputs("w", 0, typing.cast(Any, object())))


def test_what_is_wrong_is_told_in_one_short_line() -> None:
    codec = Codec[Quiet](Quiet)
    with pytest.raises(DecodeError) as caught:
        codec.decode(msgpack.packb([1, 1, "\n\x1b[2J\u2028" + "x" * 1_000_000]))
    assert len(str(caught.value)) < 2500
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


def test_messages_are_frozen_dataclasses_to_other_code() -> None:
    message = Both(Quiet(1), (Loud(Inner(2)),), {"a": None})
    assert dataclasses.replace(message, rest=()) == Both(Quiet(1), (), {"a": None})
    assert [field.name for field in dataclasses.fields(Both)] == ["first", "rest", "named"]
    assert dataclasses.asdict(message) == {
        "first": {"level": 1, "mode": "wait"},
        "rest": ({"inner": {"number": 2}, "names": ()},),
        "named": {"a": None},
    }
    with pytest.raises(TypeError):
        dataclasses.replace(message, other=1)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        message.rest = ()  # type: ignore[misc]
    assert not hasattr(message, "__dict__")
    assert hash(Quiet(1)) == hash(Quiet(1))


def test_a_wrong_message_is_refused_after_a_right_one_of_the_same_types() -> None:
    """What a decoder remembers of right messages must not let wrong ones pass."""
    right = [1, "w", 0, [["r", [5], 0, None, None, None, None, None]]]
    decoded = OUTPUTS.decode(msgpack.packb(right))
    assert isinstance(decoded, StepOutputs)
    assert decoded.outputs[0].token_ids == (5,)
    for index, value in ((1, ["x"]), (1, [5.0]), (0, 7), (2, True), (3, 1), (5, [[1]]), (6, [])):
        output = ["r", [5], 0, None, None, None, None, None]
        output[index] = value
        for _ in range(2):
            with pytest.raises(DecodeError):
                OUTPUTS.decode(msgpack.packb([1, "w", 0, [output]]))


def test_whole_numbers_become_floats_every_time() -> None:
    load: list[Any] = [
        2,
        "w",
        list(dataclasses.astuple(WorkerLoad(0, 0, 0.0, 0, 0.0))),
        [0, 0, 0, 0],
    ]
    load[2] = [int(value) if type(value) is float else value for value in load[2]]
    for _ in range(2):
        decoded = CONTROL.decode(msgpack.packb(load))
        assert isinstance(decoded, WorkerHeartbeat)
        for field in dataclasses.fields(WorkerLoad):
            if field.type in (float, "float"):
                assert type(getattr(decoded.load, field.name)) is float
