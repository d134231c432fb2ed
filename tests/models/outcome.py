"""What became of an architecture in a sweep."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["served", "text only", "refused", "no tiny model", "WRONG", "CRASH"]


@dataclass(frozen=True)
class Outcome:
    """An architecture's result, of one seed.

    reason: why it is refused, or what went wrong; if it is served, what was remarkable, or nothing.
    is_compiled: whether a compiled program was made of it, too.
    distinct: the share of tokens in the reference's texts that do not repeat.
    preemptions, cached_tokens: of the product, for sweeps that must have had some.
    """

    name: str
    class_name: str
    kind: Kind
    reason: str = ""
    is_compiled: bool = False
    distinct: float = 0.0
    preemptions: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
