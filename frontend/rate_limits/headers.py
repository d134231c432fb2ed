"""Write the headers that tell clients how much of their limits is left, as each API does."""

from datetime import UTC, datetime, timedelta

from headrace.frontend.rate_limits.meter import Level
from headrace.frontend.rate_limits.rate_limits import Levels


def openai_headers(levels: Levels) -> dict[str, str]:
    """Return OpenAI's headers; those of a limit that there is not are left out."""
    found: dict[str, str] = {}
    for name, level in _named(levels):
        found |= {
            f"x-ratelimit-limit-{name}": str(level.limit),
            f"x-ratelimit-remaining-{name}": str(level.remaining),
            f"x-ratelimit-reset-{name}": duration(level.reset_s),
        }
    return found


def anthropic_headers(levels: Levels) -> dict[str, str]:
    """Return Anthropic's headers, in which the reset is a time (RFC 3339)."""
    found: dict[str, str] = {}
    for name, level in _named(levels):
        prefix, reset = f"anthropic-ratelimit-{name}", timedelta(seconds=level.reset_s)
        found |= {
            f"{prefix}-limit": str(level.limit),
            f"{prefix}-remaining": str(level.remaining),
            f"{prefix}-reset": (datetime.now(UTC) + reset).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    return found


def _named(levels: Levels) -> list[tuple[str, Level]]:
    pairs = (("requests", levels.requests), ("tokens", levels.tokens))
    return [(name, level) for name, level in pairs if level is not None]


def duration(seconds: float) -> str:
    """Return a duration as OpenAI's headers have it: "120ms", "7.66s", "6m0s", "1h2m3s"."""
    millis = round(seconds * 1000)
    if millis < 1000:
        return f"{millis}ms" if millis else "0s"
    hours, rest = divmod(millis, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    head = f"{hours}h" if hours else ""
    head += f"{minutes}m" if minutes or hours else ""
    return f"{head}{rest / 1000:g}s"
