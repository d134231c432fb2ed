"""What an operator should know about options that are allowed but seldom wise."""

from headrace.protocol.config import PoolOptions

_RESPONSES = (
    "--log-responses: the log holds the bodies of all answers, with what users are told; turn it "
    "off as soon as the error is found"
)
_CREDENTIALS = (
    "--allow-credentials with all origins: every site that a user visits may use this server with "
    "the credentials of that user's browser; name the origins"
)
_PROMPTS = "--enable-log-requests: the log holds all prompts"


def warnings_of(options: PoolOptions) -> list[str]:
    """Return the lines for the log."""
    found = {
        _RESPONSES: options.log_responses,
        _CREDENTIALS: options.allow_credentials and "*" in options.allowed_origins,
        _PROMPTS: options.enable_log_requests,
    }
    return [line for line, holds in found.items() if holds]
