"""Frozen dataclasses to msgpack and back, as tagged arrays.

A message is `[tag, field, field, ...]`; a dataclass inside a message is an array without a tag.
The converters of a class are built once from its type hints, so that a step's outputs cost little
more than msgpack itself. Whatever bytes come in, `decode` either returns a message or raises
DecodeError: receivers count such bytes and drop them.
"""

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any

import msgpack

MAX_MESSAGE_BYTES = 64 * 1024 * 1024

Convert = Callable[[Any], Any]

_PLAIN = (bool, int, float, str, bytes)


class DecodeError(ValueError):
    """The bytes are no message that this receiver takes."""


class Codec:
    """The messages that one receiver takes, each known by a tag.

    `messages` maps tags to frozen dataclasses. A tag, once used, keeps its meaning.
    """

    def __init__(self, messages: dict[int, type[Any]]) -> None:
        self.messages = messages
        self._tags = {cls: tag for tag, cls in messages.items()}
        self._packers = {cls: _packer(cls) for cls in messages.values()}
        self._unpackers = {tag: _unpacker(cls) for tag, cls in messages.items()}

    def encode(self, message: Any) -> bytes:
        """The bytes of a message; KeyError for a class that the receiver does not take."""
        cls = type(message)
        packed: bytes = msgpack.packb([self._tags[cls], *self._packers[cls](message)])
        return packed

    def decode(self, data: bytes) -> Any:
        """The message in `data`; DecodeError if there is none."""
        if len(data) > MAX_MESSAGE_BYTES:
            raise DecodeError("message too large")
        try:
            raw = msgpack.unpackb(data, strict_map_key=True, max_ext_len=0)
        except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
            raise DecodeError("not msgpack") from error
        if type(raw) is not list or not raw or type(raw[0]) is not int:
            raise DecodeError("not a tagged array")
        unpack = self._unpackers.get(raw[0])
        if unpack is None:
            raise DecodeError("unknown tag")
        return unpack(raw[1:])


def _packer(cls: type[Any]) -> Convert:
    """From a dataclass to the list of its packed fields."""
    fields = [(name, _pack_field(hint)) for name, hint in _fields(cls)]
    if all(pack is None for _, pack in fields):
        names = [name for name, _ in fields]
        return lambda value: [getattr(value, name) for name in names]

    def pack_all(value: Any) -> list[Any]:
        return [
            getattr(value, name) if pack is None else pack(getattr(value, name))
            for name, pack in fields
        ]

    return pack_all


def _pack_field(hint: Any) -> Convert | None:
    """How a field is packed; None where msgpack takes the value as it is."""
    if dataclasses.is_dataclass(hint):
        return _packer(typing.cast(type[Any], hint))
    inner = _optional(hint)
    if inner is not None:
        pack = _pack_field(inner)
        return None if pack is None else lambda value: None if value is None else pack(value)
    origin = typing.get_origin(hint)
    if origin is tuple:
        pack_item = _pack_field(typing.get_args(hint)[0])
        return None if pack_item is None else lambda value: [pack_item(item) for item in value]
    if origin is dict:
        pack_value = _pack_field(typing.get_args(hint)[1])
        if pack_value is not None:
            return lambda value: {key: pack_value(item) for key, item in value.items()}
    return None


def _unpacker(cls: type[Any]) -> Convert:
    """From the list of packed fields to a dataclass.

    Most fields are plain values, right or wrong by their type alone. Which ones of a list are not
    is kept for each combination of types that has proved right: a message of many equal parts
    is checked without a call for each field.
    """
    hints = [hint for _, hint in _fields(cls)]
    converts = [_unpack_field(hint) for hint in hints]
    count = len(converts)
    known: dict[tuple[type[Any], ...], list[tuple[int, Convert]]] = {}

    def unpack(raw: Any) -> Any:
        if type(raw) is not list or len(raw) != count:
            raise DecodeError(f"{cls.__name__}: wrong number of fields")
        types_ = tuple(map(type, raw))
        left = known.get(types_)
        if left is None:
            values = [convert(value) for convert, value in zip(converts, raw, strict=True)]
            known[types_] = [
                (place, converts[place])
                for place, (hint, found) in enumerate(zip(hints, types_, strict=True))
                if not _is_plain(hint, found)
            ]
            return cls(*values)
        for place, convert in left:
            raw[place] = convert(raw[place])
        return cls(*raw)

    return unpack


def _is_plain(hint: Any, found: type[Any]) -> bool:
    """Whether a value of the type found is right as it is, and needs no conversion."""
    return found is types.NoneType or (found in _PLAIN and found in (hint, _optional(hint)))


def _unpack_field(hint: Any) -> Convert:
    if dataclasses.is_dataclass(hint):
        return _unpacker(typing.cast(type[Any], hint))
    inner = _optional(hint)
    if inner is not None:
        convert = _unpack_field(inner)
        return lambda value: None if value is None else convert(value)
    origin = typing.get_origin(hint)
    if origin is tuple:
        return _unpack_tuple(typing.get_args(hint)[0])
    if origin is dict:
        return _unpack_dict(typing.get_args(hint)[1])
    if hint is float:
        return _unpack_float
    return _unpack_scalar(hint)


def _unpack_scalar(expected: type[Any]) -> Convert:
    def unpack(value: Any) -> Any:
        if type(value) is not expected:
            raise DecodeError(f"not a {expected.__name__}")
        return value

    return unpack


def _unpack_float(value: Any) -> float:
    """Whole numbers are taken, too: Python's types let senders put an int for a float."""
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    raise DecodeError("not a float")


def _unpack_tuple(item: Any) -> Convert:
    if item in (int, float, str, bytes, bool):  # long lists of ids: checked without a Python loop
        allowed = {int, float} if item is float else {item}

        def unpack_plain(value: Any) -> tuple[Any, ...]:
            if type(value) is not list or not allowed.issuperset(map(type, value)):
                raise DecodeError(f"not a list of {item.__name__}")
            return tuple(map(float, value)) if item is float else tuple(value)

        return unpack_plain
    convert = _unpack_field(item)

    def unpack(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise DecodeError("not a list")
        return tuple([convert(element) for element in value])

    return unpack


def _unpack_dict(item: Any) -> Convert:
    convert = _unpack_field(item)

    def unpack(value: Any) -> dict[str, Any]:
        if type(value) is not dict or not all(type(key) is str for key in value):
            raise DecodeError("not a map of strings")
        return {key: convert(element) for key, element in value.items()}

    return unpack


def _fields(cls: type[Any]) -> list[tuple[str, Any]]:
    hints = typing.get_type_hints(cls)
    return [(field.name, hints[field.name]) for field in dataclasses.fields(cls)]


def _optional(hint: Any) -> Any:
    """T of `T | None`, else None."""
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return None
    return next(arg for arg in typing.get_args(hint) if arg is not type(None))
