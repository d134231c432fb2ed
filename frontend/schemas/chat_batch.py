"""The request of POST /v1/chat/completions/batch."""

from typing import Annotated, Any

from pydantic import FailFast, Field

from headrace.frontend.schemas.chat import ChatCompletionRequest, Messages
from headrace.frontend.schemas.fields import unsupported
from headrace.frontend.schemas.limits import at_most_of


class ChatBatchRequest(ChatCompletionRequest):
    """A chat request for several conversations, without the fields that apply only to one."""

    messages: Annotated[  # type: ignore[assignment]
        list[Messages],
        FailFast(),
        Field(min_length=1),
        at_most_of("max_prompts"),
    ]
    n: Annotated[Any, unsupported(None, 1)] = 1
    stream: Annotated[Any, unsupported(None, False)] = False
    tools: Annotated[Any, unsupported(None, [])] = None
    use_beam_search: Annotated[Any, unsupported(None, False)] = False

    def conversations(self) -> list[ChatCompletionRequest]:
        """Return a chat request for each conversation."""
        return [self.model_copy(update={"messages": messages}) for messages in self.messages]
