"""Check requests for numbers as they arrive; the worker does not rely on the frontend's checks."""

from collections.abc import Container

from headrace.protocol.pooling import NUMBER_BYTES
from headrace.protocol.to_worker import Encode
from headrace.workers.errors import RejectedByEngine
from headrace.workers.pooling.runner import TextLimits
from headrace.workers.sequence.check_request import check_adapter

# Numbers for each token of a long text are many: of all of a text at most so many bytes.
MAX_RESULT_BYTES = 48 * 1024 * 1024


def check_encode(
    request: Encode,
    running_ids: Container[str],
    limits: TextLimits,
    adapter_ids: Container[str] | None = None,
) -> None:
    """Raise RejectedByEngine, naming the field, unless the model can run the request.

    adapter_ids: the loaded adapters; None: the model takes none.
    """
    token_ids = request.prompt_token_ids
    if request.request_id in running_ids:
        _reject("request_id is in use")
    if request.task not in limits.tasks:
        _reject(f"task: this model does not {request.task}, it does {', '.join(limits.tasks)}")
    if not token_ids:
        _reject("prompt_token_ids is empty")
    if not (min(token_ids) >= 0 and max(token_ids) < limits.vocab_size):
        _reject(f"prompt_token_ids has an id that is not from 0 to {limits.vocab_size - 1}")
    longest = limits.max_model_len
    if request.task == "embed":
        longest = limits.max_embed_len or longest
    if len(token_ids) > longest:
        _reject(f"prompt_token_ids: {len(token_ids)} tokens are more than the {longest} of a text")
    _check_types(request, limits.num_token_types)
    if not 0 <= request.prompt_length < len(token_ids):
        _reject("prompt_length must leave a token of the text")
    _check_dimensions(request, limits)
    check_adapter(request.adapter, adapter_ids)
    if request.compared_with:
        _check_comparison(request, limits)
    elif request.task.startswith("token_"):
        width = request.dimensions or limits.size
        if len(token_ids) * width * NUMBER_BYTES[request.number_format] > MAX_RESULT_BYTES:
            _reject("prompt_token_ids: the numbers of so many tokens are too many for one answer")


def _check_comparison(request: Encode, limits: TextLimits) -> None:
    """Reject vectors that cannot be compared with the text's."""
    if request.task != "token_embed" or "embed" in limits.tasks:
        _reject("compared_with: is for models that have nothing but vectors of tokens")
    if request.number_format != "float32" or request.dimensions is not None:
        _reject("compared_with: excludes dimensions and other formats of numbers")
    if len(request.compared_with) % (limits.size * NUMBER_BYTES["float32"]):
        _reject(f"compared_with: is not of vectors of {limits.size} numbers")


def _check_types(request: Encode, num_types: int) -> None:
    types = request.token_type_ids
    if not types:
        return
    if len(types) != len(request.prompt_token_ids):
        _reject("token_type_ids must be as many as the tokens")
    if not (min(types) >= 0 and max(types) < num_types):
        _reject(f"token_type_ids has an id that is not from 0 to {num_types - 1}")


def _check_dimensions(request: Encode, limits: TextLimits) -> None:
    wanted, allowed = request.dimensions, limits.dimensions
    if wanted is None:
        return
    if allowed is None:
        _reject("dimensions: this model's embeddings cannot be cut")
    elif not 1 <= wanted <= limits.size:
        _reject(f"dimensions must be from 1 to {limits.size}")
    elif allowed and wanted not in allowed:
        _reject(f"dimensions must be one of {', '.join(map(str, allowed))}")


def _reject(reason: str) -> None:
    raise RejectedByEngine(reason, retry_elsewhere=False)
