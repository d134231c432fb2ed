"""Typed messages to msgpack and back, as tagged arrays.

A message with a tag is `[tag, field, field, ...]`, one without is `[field, field, ...]`. msgspec
builds encoders and decoders from the type hints. For any bytes, `Codec.decode` either returns a
message or raises DecodeError; receivers count such bytes and drop them.
"""

import dataclasses
import functools
import typing
from types import UnionType
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_MAX_ERROR_CHARACTERS = 200

T = TypeVar("T", bound="Message")


class DecodeError(ValueError):
    """The bytes are not a message that this receiver accepts."""


class _DataclassFields:
    """Lets dataclasses.replace, fields, asdict and astuple accept a Message.

    Computed on first access: in __init_subclass__ a Struct's fields are not complete yet.
    """

    def __get__(self, message: object, cls: type["Message"]) -> "dict[str, dataclasses.Field[Any]]":
        return _dataclass_fields(cls)


@functools.cache
def _dataclass_fields(cls: type["Message"]) -> "dict[str, dataclasses.Field[Any]]":
    hints = [(field.name, field.type) for field in msgspec.structs.fields(cls)]
    twin = dataclasses.make_dataclass(cls.__name__, hints)
    fields: dict[str, dataclasses.Field[Any]] = vars(twin)["__dataclass_fields__"]
    return fields


@typing.dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of messages and of their parts: a frozen dataclass with slots that msgspec knows.

    Messages of one union (a receiver's, or a field's) each need a tag: `class Abort(Message,
    tag=2)`. A tag, once used, keeps its meaning. New fields go last and have a default: a sender
    that does not know them may omit them. Unknown extra fields are an error.
    """

    __dataclass_fields__: ClassVar[_DataclassFields] = _DataclassFields()


class Codec(Generic[T]):
    """The messages that one receiver accepts: a tagged Message class, or a union of them."""

    def __init__(self, accepted: type[T] | UnionType) -> None:
        self.messages: tuple[type[T], ...] = typing.get_args(accepted) or (accepted,)
        self._accepted = frozenset(self.messages)
        self._encoder = msgspec.msgpack.Encoder(enc_hook=_to_plain)
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(accepted)

    def encode(self, message: T) -> bytes:
        """Return the bytes of a message. Raises KeyError if the receiver does not accept it."""
        if type(message) not in self._accepted:
            raise KeyError(type(message))
        return self._encoder.encode(message)

    def decode(self, data: bytes) -> T:
        """Return the message in `data`. Raises DecodeError if it does not hold one."""
        if len(data) > MAX_MESSAGE_BYTES:
            raise DecodeError("message too large")
        try:
            return self._decoder.decode(data)
        except (msgspec.DecodeError, RecursionError) as error:
            # It may quote text from the sender, of any length and with line breaks.
            reason = str(error)[:_MAX_ERROR_CHARACTERS]
            raise DecodeError(reason.encode("unicode_escape").decode()) from error


def _to_plain(value: object) -> object:
    """Encode a subclass of a plain type (numpy.float64, say) as its base."""
    for plain in (str, int, float):
        if isinstance(value, plain):
            return plain(value)
    raise TypeError(f"{type(value).__name__} cannot be sent")
