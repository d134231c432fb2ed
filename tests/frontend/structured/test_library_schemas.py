"""Schemas as libraries make them of programs' types, and values as those types write themselves."""

import datetime
import decimal
import enum
import ipaddress
import json
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import (
    AnyUrl,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    Json,
    SecretBytes,
    SecretStr,
    TypeAdapter,
)

from tests.frontend.structured.schema_matching import Matching


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=0, le=9)]


class Dog(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["dog"]
    names: dict[Color, str] = {}


class Node(BaseModel):
    value: int
    left: "Node | None" = None
    right: "Node | None" = None


class Everything(BaseModel):
    raw: bytes
    secret: SecretStr
    key: SecretBytes
    path: Path
    size: ByteSize
    price: decimal.Decimal
    at: datetime.datetime
    day: datetime.date
    lasts: datetime.timedelta
    id: uuid.UUID
    url: AnyUrl
    address: ipaddress.IPv4Address
    network: ipaddress.IPv6Network
    text: Json[dict[str, int]]
    pair: tuple[int, str]
    counts: dict[Literal["a", "b"], int]
    big: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    tree: Node
    maybe: int | str | None = Field(default=None, examples=[{"properties": {}}])


WRITTEN = Everything(
    raw=b"x",
    secret=SecretStr("s"),
    key=SecretBytes(b"k"),
    path=Path("/tmp"),
    size=5,
    price=decimal.Decimal("1.5"),
    at=datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
    day=datetime.date(2026, 1, 2),
    lasts=datetime.timedelta(hours=1),
    id=uuid.UUID(int=5),
    url="https://example.org/x",
    address=ipaddress.IPv4Address("127.0.0.1"),
    network=ipaddress.IPv6Network("::/64"),
    text='{"n": 1}',
    pair=(1, "x"),
    counts={"a": 1},
    big=2**62,
    pet=Dog(kind="dog", names={Color.RED: "Rex"}),
    tree=Node(value=1, left=Node(value=2)),
)


@pytest.fixture(scope="module")
def matching(text_path: Path) -> Matching:
    return Matching(text_path)


def value(**changed: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(WRITTEN.model_dump_json())
    # A number is one of a decimal's forms, and texts are not decoded here.
    return {**found, "price": 1.5, "text": '{"n": 1}', **changed}


WRONG: list[dict[str, Any]] = [
    {"raw": 5},
    {"day": "tomorrow"},
    {"id": "x"},
    {"pair": [1]},
    {"counts": {"c": 1}},
    {"counts": {"a": "x"}},
    {"pet": {"kind": "cow"}},
    {"pet": {"kind": "cat", "lives": 10}},
    {"pet": {"kind": "dog", "names": {"green": "x"}}},
    {"pet": {"kind": "dog", "names": {}, "lives": 1}},
    {"tree": {"left": None}},
    {"tree": {"value": 1, "left": {"value": "x"}}},
]


@pytest.mark.parametrize("is_tool", [False, True])
def test_of_pydantic(matching: Matching, is_tool: bool) -> None:
    schema = Everything.model_json_schema()
    accepts = matching.of_tool(schema) if is_tool else matching.of_format(schema)
    assert accepts(value())
    assert accepts(value(pet={"kind": "cat", "lives": 9}))
    assert [changed for changed in WRONG if accepts(value(**changed))] == []
    assert accepts(value(tree={"value": 1, "x": 1})) is not is_tool


@pytest.mark.parametrize(
    "kind",
    [bytes, SecretStr, Path, dict[Literal["a"], int], decimal.Decimal, Color, Node, Cat | Dog],
    ids=str,
)
def test_types_alone(matching: Matching, kind: Any) -> None:
    schema = TypeAdapter(kind).json_schema()
    matching.of_format(schema)  # raises what rejects a schema
    assert matching.of_tool(TypeAdapter(dict[str, kind]).json_schema())({})
