"""Define the interface of tool servers."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class ToolSpec(NamedTuple):
    """A tool. schema: the JSON schema of its arguments, which are an object."""

    name: str
    description: str
    schema: dict[str, Any]


class ToolFailure(Exception):
    """A tool or its server failed; the model and the client see the text."""


class ToolSource(Protocol):
    """A source of tools. Both methods may raise ToolFailure."""

    async def list_tools(self) -> list[ToolSpec]:
        """Return all tools."""
        ...

    async def call(self, name: str, arguments: dict[str, Any]) -> str:
        """Call a tool and return its result as text."""
        ...


@dataclass(frozen=True, slots=True)
class ToolServer:
    """A tool server that the operator has configured.

    name: the entry of `--tool-server`, which requests without a URL use as label.
    netloc: host and port, in lower case; None for a server without an address.
    """

    name: str
    netloc: str | None
    source: ToolSource
