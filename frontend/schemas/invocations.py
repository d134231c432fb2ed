"""POST /invocations: the requests of the routes that it stands for."""

from pydantic import RootModel

from headrace.frontend.schemas.chat import ChatCompletionRequest
from headrace.frontend.schemas.completion import CompletionRequest


class InvocationRequest(RootModel[ChatCompletionRequest | CompletionRequest]):
    """For the API's description; requests are validated as what they are."""
