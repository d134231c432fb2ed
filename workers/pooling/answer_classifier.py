"""Make labels' scores of a generator's logits for some tokens, after the last token of a text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from headrace.protocol.common.pooling.answer_tokens import AnswerTokens
from headrace.protocol.to_worker import Encode
from headrace.workers.errors import ModelUnsupported
from headrace.workers.pooling.classifier import ScoreSettings, finish_scores
from headrace.workers.pooling.runner import EncodeResult, TextPooler


class AnswerClassifier(TextPooler):
    """The rows of a generator's output layer for the tokens that are answers.

    ids: of the tokens. is_difference: whether the only score is what the second has more than the
        first. base: the model below the output layer. scores: what makes numbers of scores.
    """

    def __init__(
        self, model: Any, ids: Sequence[int], is_difference: bool, scores: ScoreSettings
    ) -> None:
        self.base = getattr(model, model.base_model_prefix, None)
        layer = model.get_output_embeddings()
        if self.base is None or layer is None or getattr(layer, "bias", None) is not None:
            raise ModelUnsupported(f"{type(model).__name__} has no plain output layer")
        if max(ids) >= layer.weight.shape[0]:
            raise ModelUnsupported(f"{type(model).__name__} has no token {max(ids)}")
        rows = layer.weight[list(ids)].float()
        self._weight: Tensor = rows[1:] - rows[:1] if is_difference else rows
        self._scores = scores

    def pool(
        self, request: Encode, vectors: Tensor, head: Mapping[str, Tensor] | None = None
    ) -> EncodeResult:
        """Return the numbers of each label."""
        scores = self._weight @ vectors[-1].float()
        return finish_scores(request, scores, self._scores)


def answer_ids(folder: Path, answers: AnswerTokens) -> list[int]:
    """Return the ids of tokens. Raises ModelUnsupported if the tokenizer lacks one of them."""
    texts = [token for token in answers.tokens if isinstance(token, str)]
    known: dict[str, int | None] = {}
    if texts:
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ModelUnsupported(f"{folder}: has no tokenizer.json, which tells tokens by name")
        tokenizer = Tokenizer.from_file(str(file))
        known = {text: tokenizer.token_to_id(text) for text in texts}
    ids = [known[token] if isinstance(token, str) else token for token in answers.tokens]
    missing = [token for token, id_ in zip(answers.tokens, ids, strict=True) if id_ is None]
    if missing:
        raise ModelUnsupported(f"{folder}: its tokenizer has no token {missing[0]!r}")
    return [id_ for id_ in ids if id_ is not None]
