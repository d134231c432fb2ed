"""The interface between the engine and what runs a model that pools."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from headrace.protocol.pooling import Task
from headrace.protocol.to_frontend import Pooled
from headrace.protocol.to_worker import Encode
from headrace.workers.sequence.engine_adapters import EngineAdapters
from headrace.workers.sequence.sequence import Failure

if TYPE_CHECKING:  # a fake engine needs no torch
    from torch import Tensor

EncodeResult = Pooled | Failure


@dataclass(frozen=True, slots=True)
class TextLimits:
    """What a model takes, and what it does.

    vocab_size: token ids are below it. num_token_types: token type ids are.
    max_model_len: the most tokens of a text.
    size: numbers of an embedding. dimensions: to how many they may be cut; empty: to any number;
        None: they may not be cut.
    max_embed_len: tokens of a text that is embedded, which runs in pieces if it has more than
        max_model_len; None: max_model_len.
    normalizes: whether embeddings are normalized unless requests say otherwise.
    """

    tasks: tuple[Task, ...]
    vocab_size: int
    max_model_len: int
    size: int
    dimensions: tuple[int, ...] | None = None
    num_token_types: int = 1
    max_embed_len: int | None = None
    normalizes: bool = True


class TextPooler(Protocol):
    """Makes a text's numbers of its vectors [tokens, size].

    head: the parameters that adapters may replace, by name; none but a classifier has any.
    """

    @property
    def head(self) -> "Mapping[str, Tensor]":
        return {}

    def pool(
        self, request: Encode, vectors: "Tensor", head: "Mapping[str, Tensor] | None" = None
    ) -> EncodeResult:
        """Return a text's numbers. head: replaces parameters of the model's head."""
        ...


class PoolingRunner(Protocol):
    """Turns whole texts into numbers, many at a time.

    default_step_tokens: how many tokens in a step suit the device at most.
    """

    @property
    def limits(self) -> TextLimits: ...

    @property
    def default_step_tokens(self) -> int: ...

    def new_adapters(self, max_rank: int) -> EngineAdapters | None:
        """Return an empty store of adapters for this model; None if it supports none."""
        ...

    def use_adapters(self, adapters: EngineAdapters) -> None:
        """Look the requests' adapters up in this store from now on."""
        ...

    def run(self, requests: Sequence[Encode], report: Callable[[], None]) -> list[EncodeResult]:
        """Run texts and return the result of each.

        A text's numbers do not depend on those beside it. May raise anything if the device fails,
        but never because of a request that was admitted.

        report: called whenever the step has come further: long texts take long.
        """
        ...

    def join(self, request: Encode, mean: Sequence[float]) -> EncodeResult:
        """Return the numbers of a text that ran in pieces.

        mean: of its pieces' vectors, which had been cut and normalized as requested.
        """
        ...

    @property
    def weight_bytes(self) -> int | None:
        """Memory of the weights in bytes; None if unknown."""
        ...

    def offload_weights(self) -> None:
        """Move weights from an accelerator's memory to the host's. Harmless twice."""
        ...

    def restore_weights(self) -> None:
        """Move weights back. Harmless twice. Raises MemoryError if there is no memory for them."""
        ...
