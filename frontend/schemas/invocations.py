"""The request of POST /invocations: that of the route that it stands for."""

from pydantic import RootModel

from headrace.frontend.schemas.chat import ChatCompletionRequest
from headrace.frontend.schemas.completion import CompletionRequest
from headrace.frontend.schemas.embeddings import EmbeddingRequest


class InvocationRequest(RootModel[ChatCompletionRequest | CompletionRequest | EmbeddingRequest]):
    """For the API's description only; requests are validated as those of one route."""
