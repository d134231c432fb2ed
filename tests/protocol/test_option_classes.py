"""Classes of options that are inherited together: none of them replaces what another checks."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError, field_validator

from headrace.launcher.command.group_options import GroupOptions
from headrace.protocol.config import GroupConfig, PoolConfig, PoolOptions, ServingOptions
from headrace.protocol.engine_config import EngineConfig, Frozen

CLASSES = (PoolConfig, GroupConfig, ServingOptions, EngineConfig, GroupOptions)


def hooks(options: type[Frozen]) -> Iterator[str]:
    """Yield the name of each validator and serializer, once for each class that defines it."""
    for base in options.__mro__:
        decorators = base.__dict__.get("__pydantic_decorators__")
        for kind in ("field_validators", "model_validators", "field_serializers"):
            yield from (name for name in getattr(decorators, kind, ()) if name in base.__dict__)


def twice(options: type[Frozen]) -> list[str]:
    return [name for name, count in Counter(hooks(options)).items() if count > 1]


@pytest.mark.parametrize("options", CLASSES)
def test_no_validator_replaces_another_of_its_name(options: type[Frozen]) -> None:
    assert list(hooks(PoolOptions))
    assert twice(options) == []


def test_one_that_does_is_found() -> None:
    class First(Frozen):
        first: int = 0

        @field_validator("first")
        @classmethod
        def _check(cls, value: int) -> int:
            raise ValueError("is never right")

    class Second(First):
        second: int = 0

        @field_validator("second")
        @classmethod
        def _check(cls, value: int) -> int:
            return value

    with pytest.raises(ValidationError, match="never right"):
        First(first=1)
    assert Second(first=1).first == 1
    assert twice(Second) == ["_check"]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (ServingOptions, "tool_parser_plugin"),
        *(
            (PoolOptions, name)
            for name in (
                "api_key_file",
                "file_dir",
                "lora_dir",
                "profile_dir",
                "ssl_ca_certs",
                "ssl_certfile",
                "ssl_keyfile",
            )
        ),
    ],
)
def test_paths_hold_in_processes_with_another_working_directory(
    options: type[Frozen], name: str
) -> None:
    given: dict[str, Any] = {"ssl_certfile": "certificate"} if name.startswith("ssl_") else {}
    made = options.model_validate(given | {name: "a/b"})
    assert getattr(made, name) == Path.cwd() / "a" / "b"
