"""What no answer may hold."""

import re

# An address in memory, a place on the machine, a stack, or an object as Python shows it.
LEAKS = re.compile(
    r"0x[0-9a-fA-F]{4,}|Traceback|site-packages|\.py\b|\bheadrace\.\w+\."
    r"|<class |<function | object at |/(?:work|home|root|tmp|usr|var|opt|proc|secret)/"
    r"|hunter2|psycopg|sqlalche|sqlite3|\[SQL:"
)


def leak_in(text: str) -> str:
    """Return what a text tells that it must not; "" if it is clean."""
    found = LEAKS.search(text)
    return "" if found is None else text[max(0, found.start() - 30) : found.end() + 60]
