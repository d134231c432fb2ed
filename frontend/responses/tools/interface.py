"""What a response sees of the servers whose tools it runs."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class ToolSpec(NamedTuple):
    """A tool. schema: of its arguments, a JSON schema of an object."""

    name: str
    description: str
    schema: dict[str, Any]


class ToolFailure(Exception):
    """A tool, or its server, has failed; the text is for the model and the client."""


class ToolSource(Protocol):
    """A server of tools. Both methods may raise ToolFailure."""

    async def list_tools(self) -> list[ToolSpec]: ...

    async def call(self, name: str, arguments: dict[str, Any]) -> str:
        """The tool's result as text."""
        ...


@dataclass(frozen=True, slots=True)
class ToolServer:
    """A server as the operator has named it. name: what it is called without an address.

    netloc: host and port, in lower case; None for one that has no address.
    """

    name: str
    netloc: str | None
    source: ToolSource
