"""The request of POST /invocations: that of the route that it stands for."""

from pydantic import RootModel

from headrace.frontend.schemas.chat import ChatCompletionRequest
from headrace.frontend.schemas.completion import CompletionRequest
from headrace.frontend.schemas.pooling.cohere import CohereEmbedRequest
from headrace.frontend.schemas.pooling.embeddings import EmbeddingRequest
from headrace.frontend.schemas.pooling.scoring import RerankRequest, ScoreTextRequest


class InvocationRequest(
    RootModel[
        ChatCompletionRequest
        | CompletionRequest
        | EmbeddingRequest
        | RerankRequest
        | ScoreTextRequest
        | CohereEmbedRequest
    ]
):
    """For the API's description only; requests are validated as those of one route."""
