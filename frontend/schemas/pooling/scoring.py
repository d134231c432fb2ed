"""The requests of POST /score and /rerank, and their answers."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Field, RootModel

from headrace.frontend.schemas.chat import TemplateArguments
from headrace.frontend.schemas.fields import Int
from headrace.frontend.schemas.pooling.fields import PoolingFields
from headrace.frontend.schemas.pooling.plain_texts import PlainText, PlainTexts
from headrace.frontend.schemas.response_bodies import Usage

_TokenLimit = Annotated[Int, Field(ge=0, lt=2**31)]


class ScoringFields(PoolingFields):
    """Fields of a request for the scores of pairs of texts.

    max_tokens_per_query, max_tokens_per_doc: tokens of a text that are kept; 0: all.
    instruction, chat_template_kwargs: for the template of a model that has one for pairs.
    first_field, second_field: which fields hold the pairs' first and second texts.
    """

    max_tokens_per_query: _TokenLimit = 0
    max_tokens_per_doc: _TokenLimit = 0
    instruction: Annotated[str, Field(max_length=65536)] | None = None
    chat_template_kwargs: TemplateArguments | None = None

    first_field: ClassVar[str] = "text_1"
    second_field: ClassVar[str] = "text_2"

    @property
    def firsts(self) -> list[str]:
        """The pairs' first texts: one for all pairs, or one for each."""
        texts: list[str] = getattr(self, self.first_field)
        return texts

    @property
    def seconds(self) -> list[str]:
        """The pairs' second texts."""
        texts: list[str] = getattr(self, self.second_field)
        return texts


class ScoreTextRequest(ScoringFields):
    text_1: PlainTexts
    text_2: PlainTexts


class ScoreQueriesDocumentsRequest(ScoringFields):
    queries: PlainTexts
    documents: PlainTexts

    first_field: ClassVar[str] = "queries"
    second_field: ClassVar[str] = "documents"


class ScoreQueriesItemsRequest(ScoringFields):
    queries: PlainTexts
    items: PlainTexts

    first_field: ClassVar[str] = "queries"
    second_field: ClassVar[str] = "items"


class ScoreDataRequest(ScoringFields):
    data_1: PlainTexts
    data_2: PlainTexts

    first_field: ClassVar[str] = "data_1"
    second_field: ClassVar[str] = "data_2"


class ScoreBody(RootModel[ScoreTextRequest | ScoreQueriesDocumentsRequest | ScoreDataRequest]):
    """For the API's description only; bodies are validated as what `score_model` returns."""


class RerankRequest(ScoringFields):
    """A request for the order of documents.

    top_n: how many to answer; 0: all. return_documents: whether the answer repeats them.
    """

    query: PlainText
    documents: PlainTexts
    top_n: Annotated[Int, Field(ge=0, lt=2**31)] | None = None
    return_documents: bool | None = None

    first_field: ClassVar[str] = "query"
    second_field: ClassVar[str] = "documents"

    @property
    def firsts(self) -> list[str]:
        return [self.query]


def score_model(body: dict[str, Any]) -> type[ScoringFields]:
    """Return the class of a body, by the fields that hold its texts."""
    if "queries" in body:
        return ScoreQueriesItemsRequest if "items" in body else ScoreQueriesDocumentsRequest
    if "data_1" in body or "data_2" in body:
        return ScoreDataRequest
    return ScoreTextRequest


class Score(BaseModel):
    index: int
    object: str
    score: float


class ScoreList(BaseModel):
    id: str
    object: str
    created: int
    model: str
    data: list[Score]
    usage: Usage


class RankedDocument(BaseModel):
    text: str
    multi_modal: None


class RankedResult(BaseModel):
    index: int
    document: RankedDocument | None = None
    relevance_score: float


class RerankUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class Ranking(BaseModel):
    id: str
    model: str
    usage: RerankUsage
    results: list[RankedResult]
