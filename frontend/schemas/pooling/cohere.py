"""The request of Cohere's POST /v2/embed, and its answer."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from headrace.frontend.schemas.fields import Int, Name, RequestModel, unsupported
from headrace.frontend.schemas.pooling.plain_texts import OptionalTexts

EmbeddingType = Literal["float", "binary", "ubinary", "base64"]


class CohereEmbedRequest(RequestModel):
    """A request for the embeddings of texts.

    input_type: what the texts are, which decides the prompt before them.
    inputs: objects with a content of text parts, instead of texts.
    truncate: the side on which texts that are too long are cut; NONE: they are errors.
    max_tokens: of a text; None: as many as the model takes.
    """

    model: Name | None = None
    input_type: Name | None = None
    texts: OptionalTexts = None
    inputs: OptionalTexts = None
    images: Annotated[Any, unsupported(None, [])] = None
    output_dimension: Annotated[Int, Field(ge=-(2**31), lt=2**31)] | None = None
    embedding_types: Annotated[list[EmbeddingType], Field(max_length=16)] | None = None
    truncate: Literal["NONE", "START", "END"] = "END"
    max_tokens: Annotated[Int, Field(ge=1, lt=2**31)] | None = None
    priority: Annotated[Int, Field(ge=-(2**31), lt=2**31)] = 0

    @property
    def strings(self) -> list[str]:
        """The texts, in whichever field they are."""
        strings: list[str] = (self.inputs if self.texts is None else self.texts) or []
        return strings


class TypedEmbeddings(BaseModel):
    """Embeddings in each form that was asked for."""

    floats: Annotated[list[list[float]] | None, Field(alias="float")] = None
    binary: list[list[int]] | None = None
    ubinary: list[list[int]] | None = None
    base64: list[str] | None = None


class CohereEmbeddings(BaseModel):
    id: str
    embeddings: TypedEmbeddings
    texts: list[str] | None = None
    meta: dict[str, Any]
    response_type: str
