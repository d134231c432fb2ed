"""Make labels' scores of a text's vectors with the head of a transformers model.

The head is the model's own forward pass, in which the model below it returns vectors that have been
computed already, together with those of other texts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from headrace.protocol.to_frontend import Pooled
from headrace.protocol.to_worker import Encode
from headrace.workers.errors import ModelUnsupported
from headrace.workers.pooling.pooler import NOT_FINITE, of_steps, to_bytes
from headrace.workers.pooling.runner import EncodeResult


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """What makes numbers of scores: these less the mean, over sigma, and their activation."""

    activation: str
    mean: float = 0.0
    sigma: float = 1.0


class Classifier:
    """The head of a model that classifies texts or their tokens.

    base: the model below the head. scores: what makes numbers of scores. step_tag_id: of the tokens
        whose numbers are answered where those of tokens are; None: of all.
    """

    def __init__(self, model: Any, scores: ScoreSettings, step_tag_id: int | None = None) -> None:
        self.base = getattr(model, model.base_model_prefix, None)
        if self.base is None or self.base is model:
            raise ModelUnsupported(f"{type(model).__name__} has no model below its head")
        self._model, self._scores, self._step_tag_id = model, scores, step_tag_id
        self._below = _Computed(getattr(self.base, "pooler", None))
        if self._below.pooler is not None:
            self.base.pooler = None  # it is part of the head
        setattr(model, model.base_model_prefix, self._below)
        model.float()

    @property
    def head(self) -> Mapping[str, Tensor]:
        """The parameters that adapters may replace, by their names in the whole model."""
        return dict(self._model.named_parameters())

    def pool(
        self, request: Encode, vectors: Tensor, head: Mapping[str, Tensor] | None = None
    ) -> EncodeResult:
        """Return the numbers of each label, for the text or for each of its tokens."""
        self._below.vectors = vectors.float().unsqueeze(0)
        ids = torch.tensor([request.prompt_token_ids], device=vectors.device)
        inputs = {"input_ids": ids, "return_dict": True}
        if head:
            output = functional_call(self._model, dict(head), (), inputs)
        else:
            output = self._model(**inputs)
        scores: Tensor = output.logits[0].float()
        if request.task == "token_classify":
            scores = of_steps(scores, request.prompt_token_ids, self._step_tag_id)
        return finish_scores(request, scores, self._scores)


class _Computed(nn.Module):
    """Stands in for a model whose vectors [1, tokens, size] are known.

    pooler: the model's own, which heads may read; None if it has none.
    """

    def __init__(self, pooler: nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler
        self.vectors: Tensor = torch.empty(0)

    def forward(self, *args: Any, **options: Any) -> BaseModelOutputWithPoolingAndCrossAttentions:
        pooled = None if self.pooler is None else self._pool(self.pooler)
        return BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=self.vectors,
            pooler_output=pooled,
        )

    def _pool(self, pooler: nn.Module) -> Any:
        if isinstance(pooler, nn.Linear):  # ALBERT's, whose activation is beside it
            return torch.tanh(pooler(self.vectors[:, 0]))
        return pooler(self.vectors)


def finish_scores(request: Encode, scores: Tensor, settings: ScoreSettings) -> EncodeResult:
    """Make a text's numbers of its labels' scores."""
    scores = (scores - settings.mean) / settings.sigma
    if request.activates is not False:
        scores = _activated(scores, settings.activation)
    if not bool(torch.isfinite(scores).all()):
        return NOT_FINITE
    return Pooled(to_bytes(scores, request.number_format), tuple(scores.shape))


def _activated(scores: Tensor, activation: str) -> Tensor:
    if activation == "softmax":
        return scores.softmax(dim=-1)
    return scores.sigmoid() if activation == "sigmoid" else scores
