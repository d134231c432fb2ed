"""Compute the vectors of many texts' tokens in one forward pass of a transformers model.

All texts lie in one row: linear layers see all tokens at once, attention each text by itself. What
is not a model of transformers' attention interface runs texts of one length together instead, as
the model itself would. Either way nothing is padded with other texts in mind, and a text's vectors
do not depend on those beside it.
"""

import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from headrace.protocol.to_worker import Encode
from headrace.workers.errors import ModelUnsupported
from headrace.workers.linear.row_counts import round_up_rows
from headrace.workers.lora.slots import AdapterSlots
from headrace.workers.pooling.compiled_encoder import calls
from headrace.workers.pooling.positions import positions_of
from headrace.workers.pooling.text_attention import TextAttention, TextGroup

# MKL's products of few rows differ in their last bits from those of many: of fewer than 4 a thread.
# And what a thread computes of a tensor must be whole vectors, of 32 numbers at most: torch does
# the rest one by one, with other last bits.
_ROWS_OF_THREAD = 16
_CHECK_LENGTHS = (5, 17, 5, 40)
_LONG_CHECK = 300
EncodeTexts = Callable[[Sequence[Encode], Callable[[], None]], list[Tensor]]

_TOLERANCES = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}


class Encoder:
    """A model without its head.

    padding: the token after whose id positions are counted; None: they are counted from 0.
    max_len: tokens of a text. is_varlen: whether texts of different lengths share a forward pass.
    slots: for LoRA adapters; None: it takes none.
    """

    def __init__(self, model: PreTrainedModel, max_len: int) -> None:
        self.model: Any = model
        self.max_len = max_len
        self._takes = frozenset(inspect.signature(model.forward).parameters)
        self.padding = _padding_of_positions(model)
        self._attention = TextAttention()
        self._own_attention: str = model.config._attn_implementation
        self.is_varlen = False
        self.slots: AdapterSlots | None = None

    @torch.inference_mode()
    def check(self) -> str:
        """Use the fast way if its vectors are the model's own; return why not, or ""."""
        reason = self._why_not_varlen()
        self.is_varlen = not reason
        if reason:
            self.model.set_attn_implementation(self._own_attention)
        return reason

    def _why_not_varlen(self) -> str:
        name = type(self.model).__name__
        if "position_ids" not in self._takes:
            return f"{name} takes no positions"
        requests = self._check_texts()
        alone = self._encode_equal(requests, lambda: None)
        try:
            self.model.set_attn_implementation(self._attention.name)
            together = self._encode_together(requests, lambda: None)
        except (ModelUnsupported, RuntimeError, ValueError, TypeError, KeyError) as error:
            return f"{name}: {(str(error).splitlines() or [type(error).__name__])[0]}"
        if not self._attention.calls:
            return f"{name} does its attention by itself"
        if _difference(alone, together) > _TOLERANCES[self.model.dtype]:
            return f"{name} computes something else when texts lie in one row"
        return ""

    @torch.inference_mode()
    def compare(self, encode: EncodeTexts, dtype: torch.dtype) -> tuple[bool, float]:
        """Compare another encoder of this model with the model itself.

        Must be called before `check`. Returns whether it computes the same, up to roundings in a
        dtype, and the least cosine of a text's mean vectors.
        """
        requests = self._check_texts()
        own = [vectors.float() for vectors in self._encode_equal(requests, lambda: None)]
        found = encode(requests, lambda: None)
        cosines = [
            float(torch.cosine_similarity(a.double().mean(0), b.double().mean(0), dim=0))
            for a, b in zip(own, found, strict=True)
        ]
        return _difference(own, found) <= _TOLERANCES[dtype], min(cosines)

    def _check_texts(self) -> list[Encode]:
        lengths = [min(length, self.max_len) for length in (*_CHECK_LENGTHS, _LONG_CHECK)]
        generator = torch.Generator().manual_seed(0)
        embedding: Any = self.model.get_input_embeddings()
        vocab = embedding.weight.shape[0]
        texts = [torch.randint(vocab, (length,), generator=generator) for length in lengths]
        return [Encode(str(n), tuple(text.tolist()), "embed") for n, text in enumerate(texts)]

    @torch.inference_mode()
    def encode(self, requests: Sequence[Encode], report: Callable[[], None]) -> list[Tensor]:
        """Return the vectors [tokens, size] of each text. report: called as the pass proceeds."""
        run = self._encode_together if self.is_varlen else self._encode_equal
        if self.slots is None:
            return run(requests, report)
        vectors: list[Tensor] = []
        for texts in calls(requests, self.slots.num_slots, sys.maxsize):
            vectors += run(texts, report)
        return vectors

    def _adapted(self, texts: Sequence[Encode]) -> AbstractContextManager[None]:
        """Apply the adapters of texts to the next forward pass, whose first rows are theirs."""
        if self.slots is None:
            return nullcontext()
        names = [text.adapter for text in texts]
        return self.slots.applied_to(names, [_length(text) for text in texts])

    def _encode_together(
        self, requests: Sequence[Encode], report: Callable[[], None]
    ) -> list[Tensor]:
        order = _by_length(requests)
        groups, start = [], 0
        for length, texts in groupby(order, key=lambda index: _length(requests[index])):
            count = len(list(texts))
            groups.append(TextGroup(start, count, length))
            start += count * length
        self._attention.prepare(groups, report)
        ids = [requests[index].prompt_token_ids for index in order]
        filling = self._filling(start, multiple=True)
        rows = self._inputs(
            [token for text in ids for token in text] + [0] * filling,
            [place for text in ids for place in self.positions(text)] + [0] * filling,
            [kind for index in order for kind in _types(requests[index])] + [0] * filling,
        )
        with self._adapted([requests[index] for index in order]):
            hidden = self._forward(**{name: row.unsqueeze(0) for name, row in rows.items()})[0]
        vectors = torch.split(hidden[:start], [len(text) for text in ids])
        return _in_order(vectors, order)

    def _encode_equal(self, requests: Sequence[Encode], report: Callable[[], None]) -> list[Tensor]:
        order = _by_length(requests)
        vectors: list[Tensor] = []
        for length, texts in groupby(order, key=lambda index: _length(requests[index])):
            indexes = list(texts)
            again = -(-self._filling(len(indexes) * length) // length)  # whole texts, ignored
            same = [requests[index] for index in (*indexes, *[indexes[0]] * again)]
            rows = self._inputs(
                [token for request in same for token in request.prompt_token_ids],
                [place for request in same for place in self.positions(request.prompt_token_ids)],
                [kind for request in same for kind in _types(request)],
            )
            with self._adapted(same):
                hidden = self._forward(
                    **{name: row.view(len(same), length) for name, row in rows.items()}
                )
            vectors += hidden[: len(indexes)].unbind()
            report()
        return _in_order(vectors, order)

    def _forward(self, **inputs: Tensor) -> Tensor:
        options = {"use_cache": False} if "use_cache" in self._takes else {}
        hidden: Tensor = self.model(**inputs, **options, return_dict=True).last_hidden_state
        return hidden

    def _inputs(
        self, token_ids: list[int], positions: list[int], types: list[int]
    ) -> dict[str, Tensor]:
        rows = {"input_ids": token_ids, "position_ids": positions, "token_type_ids": types}
        if not any(types):  # which is what models assume
            del rows["token_type_ids"]
        device = self.model.device
        return {
            name: torch.tensor(row, dtype=torch.long, device=device)
            for name, row in rows.items()
            if name in self._takes
        }

    def positions(self, text: Sequence[int]) -> Sequence[int]:
        """Return the positions of a text's tokens."""
        return positions_of(text, self.padding)

    def _filling(self, rows: int, multiple: bool = False) -> int:
        """Return how many rows to add, so that last bits do not depend on the number of rows."""
        if self.model.device.type != "cpu":
            return 0
        unit = _ROWS_OF_THREAD * torch.get_num_threads()
        least = -(-rows // unit) * unit if multiple else max(rows, unit)
        return (least if self.model.dtype == torch.float32 else round_up_rows(least)) - rows


def _padding_of_positions(model: PreTrainedModel) -> int | None:
    """Return the token id after which a model counts positions; None if it counts from 0."""
    embeddings = getattr(model, "embeddings", None)
    module = inspect.getmodule(type(embeddings))
    counts = hasattr(embeddings, "create_position_ids_from_input_ids") or hasattr(
        module, "create_position_ids_from_input_ids"
    )
    padding = getattr(embeddings, "padding_idx", None)
    return padding if counts and isinstance(padding, int) else None


def _difference(own: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Return the greatest difference of vectors, over the greatest number of their text."""
    differences = []
    for mine, other in zip(own, others, strict=True):
        wanted, found = mine.float().nan_to_num(), other.float().nan_to_num()
        scale = max(float(wanted.abs().max()), 1e-6)
        differences.append(float((wanted - found).abs().max()) / scale)
    return max(differences)


def _length(request: Encode) -> int:
    return len(request.prompt_token_ids)


def _types(request: Encode) -> Sequence[int]:
    return request.token_type_ids or [0] * _length(request)


def _by_length(requests: Sequence[Encode]) -> list[int]:
    """Return the indexes of texts, those of one length next to each other."""
    return sorted(range(len(requests)), key=lambda index: _length(requests[index]))


def _in_order(vectors: Sequence[Tensor], order: Sequence[int]) -> list[Tensor]:
    found = dict(zip(order, vectors, strict=True))
    return [found[index] for index in range(len(order))]
