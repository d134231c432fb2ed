"""Read by which tokens a generator classifies: its logits for them are the scores of labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from headrace.protocol.common.pooling.json_files import PoolingFilesError, read_object
from headrace.protocol.common.pooling.sentence_modules import read_module_folders


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """Tokens whose logits after the last token of a text are scores.

    tokens: their texts, or their ids. is_difference: whether the only score is what the second has
        more than the first.
    """

    tokens: tuple[str | int, ...]
    is_difference: bool

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels."""
        if self.is_difference or len(self.tokens) == 1:
            return ("LABEL_0",)
        return tuple(map(str, self.tokens))


def read_answer_tokens(folder: Path, config: Mapping[str, Any]) -> AnswerTokens | None:
    """Return the tokens that config.json names, as the reference has them there, or a module of
    sentence-transformers; None if there are none.

    Raises PoolingFilesError if a file is damaged.
    """
    names = config.get("classifier_from_token")
    if names is not None:
        is_list = isinstance(names, list) and names and all(isinstance(n, str) for n in names)
        is_pair = bool(config.get("is_original_qwen3_reranker"))
        if not is_list or (is_pair and len(names) != 2):
            raise PoolingFilesError(f"{folder}: classifier_from_token is not a list of its tokens")
        return AnswerTokens(tuple(names), is_pair)
    for kind, place in read_module_folders(folder):
        if kind == "LogitScore":
            return _logit_score(place)
    return None


def _logit_score(place: Path) -> AnswerTokens:
    config = read_object(place / "config.json")
    yes, no = config.get("true_token_id"), config.get("false_token_id")
    if not _is_id(yes) or not (no is None or _is_id(no)):
        raise PoolingFilesError(f"{place}: true_token_id and false_token_id are not ids of tokens")
    return AnswerTokens((yes,), False) if no is None else AnswerTokens((no, yes), True)


def _is_id(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
