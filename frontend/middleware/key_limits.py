"""Take the current request within the limits of its key, and tell its client what is left."""

from headrace.frontend.context import Context
from headrace.frontend.middleware import request_scope
from headrace.frontend.rate_limits.headers import anthropic_headers, openai_headers
from headrace.frontend.rate_limits.rate_limits import RateLimited

_ANTHROPIC = "/v1/messages"


def admit_request(context: Context) -> None:
    """Count the current request, until it ends among those at once. Raises RateLimited."""
    scope = request_scope.current()
    key = scope.key
    if key is None:
        return

    def headers() -> dict[str, str]:
        levels = context.rate_limits.levels(key)
        is_anthropic = scope.handler.startswith(_ANTHROPIC)
        return anthropic_headers(levels) if is_anthropic else openai_headers(levels)

    scope.headers.append(headers)
    try:
        scope.slot = context.rate_limits.admit(key, scope.is_batch_line)
    except RateLimited as error:
        note_refusal(context, error)
        raise
    scope.cleanups.append(scope.slot.release)
    context.metrics.tenant_requests.count(key.tenant)


def note_refusal(context: Context, error: RateLimited) -> None:
    """Count a request that is refused because a limit is reached."""
    scope = request_scope.current_or_none()
    if scope is not None:
        scope.rejection_reason = "rate_limit"
    if scope is None or not scope.is_batch_line:  # a line is tried again and again
        context.metrics.tenant_requests.count_refused(context.principal.tenant, error.limit)
