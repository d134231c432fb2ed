"""Check chat templates before a pool starts: `python -m headrace.frontend.chat.check_templates`.

The launcher runs this, with a JSON object of templates by name on stdin, because what comes with a
model may take any time and memory. If a template is no template, or does not end, the reason is one
line on stdout and the exit status is 1.
"""

import ctypes
import json
import resource
import signal
import sys
import time

from headrace.frontend.chat.detection import probes
from headrace.frontend.chat.template_sandbox import DEADLINE_S, time_limit
from headrace.frontend.chat.templates import ChatTemplate

MAX_CPU_S = 30
MAX_MEMORY_BYTES = 1 << 30
PR_SET_PDEATHSIG = 1


def main() -> int:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    job = json.load(sys.stdin)
    for name, source in job["templates"].items():
        reason = failure(source, job["special_tokens"], job["deadline_s"])
        if reason is not None:
            print(f"{name}: {reason}" if name else reason)
            return 1
    return 0


def failure(
    source: str, special_tokens: dict[str, str], deadline_s: float = DEADLINE_S
) -> str | None:
    """Return why a template cannot be used; None if it can, whichever chats it rejects."""
    try:
        template = ChatTemplate(source, special_tokens)
    except ValueError as error:
        return str(error)
    started_s = time.monotonic()
    with time_limit(deadline_s):
        _render(template)
    if time.monotonic() - started_s > deadline_s:
        return f"chat template: it has not rendered a few short chats within {deadline_s:g} s"
    return None


def _render(template: ChatTemplate) -> None:
    """Render what frontends render when they start."""
    probes.prompt(template)
    probes.prompt(template, tools=[probes.TOOL])
    probes.end_of_answer(template)
    probes.written_reasoning(template, "thought")
    for _ in probes.written_calls(template):
        pass


if __name__ == "__main__":
    sys.exit(main())
