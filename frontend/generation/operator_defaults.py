"""Apply what the operator has set for fields that requests leave out."""

from typing import TypeVar

from headrace.frontend.context import ServedModel
from headrace.frontend.schemas.generation import GenerationRequest, StreamOptions

Request = TypeVar("Request", bound=GenerationRequest)


def apply_operator_defaults(request: Request, model: ServedModel) -> Request:
    """Return the request with the operator's defaults for fields that it leaves out."""
    serving = model.group.serving
    changed: dict[str, object] = {}
    if request.return_tokens_as_token_ids is None and serving.return_tokens_as_token_ids:
        changed["return_tokens_as_token_ids"] = True
    if request.stream and serving.enable_force_include_usage:
        options = request.stream_options or StreamOptions()
        changed["stream_options"] = options.model_copy(update={"include_usage": True})
    return request.model_copy(update=changed) if changed else request
