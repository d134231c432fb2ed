"""Let pages of other sites use the server from browsers (CORS), if the operator wants so.

Starlette's middleware decides and writes the headers: it is what clients of vLLM have met. It sits
outside all that may answer, so that errors have the headers, too, and preflights need no key.
"""

from headrace.frontend.middleware.asgi import ASGIApp
from headrace.protocol.http_options import HTTPOptions

# Headers of answers that pages may read, besides those that browsers always show.
EXPOSED = (
    "X-Request-Id",
    "Request-Id",
    "Retry-After",
    "X-Headrace-Ignored-Fields",
    "X-RateLimit-Limit-Requests",
    "X-RateLimit-Limit-Tokens",
    "X-RateLimit-Remaining-Requests",
    "X-RateLimit-Remaining-Tokens",
    "X-RateLimit-Reset-Requests",
    "X-RateLimit-Reset-Tokens",
    "Anthropic-RateLimit-Requests-Limit",
    "Anthropic-RateLimit-Requests-Remaining",
    "Anthropic-RateLimit-Requests-Reset",
    "Anthropic-RateLimit-Tokens-Limit",
    "Anthropic-RateLimit-Tokens-Remaining",
    "Anthropic-RateLimit-Tokens-Reset",
)


def with_cors(app: ASGIApp, options: HTTPOptions) -> ASGIApp:
    """Return the application as pages of the allowed origins may use it; without such, itself."""
    if not options.allowed_origins:
        return app
    from starlette.middleware.cors import CORSMiddleware  # late: few servers need it

    wrapped: ASGIApp = CORSMiddleware(
        app,
        allow_origins=options.allowed_origins,
        allow_methods=[method.upper() for method in options.allowed_methods],
        allow_headers=options.allowed_headers,
        allow_credentials=options.allow_credentials,
        expose_headers=EXPOSED,
    )
    return wrapped
