"""Render templates that requests bring, in a process of their own.

The sandbox restricts such a program to its variables but not in time or memory. The process has a
deadline and a memory limit, and its end harms nothing else.
"""

import asyncio
import json
import math
import os
import resource
import sys
from collections.abc import Mapping
from typing import Any

from headrace.frontend.chat.shown_roles import render_all_messages
from headrace.frontend.chat.template_sandbox import TemplateTimeout
from headrace.frontend.chat.templates import ChatTemplate
from headrace.frontend.errors import BadRequest
from headrace.frontend.schemas.limits import current_limits

MAX_MEMORY_BYTES = 1 << 30
MAX_OUTPUT_BYTES = 16 << 20
MAX_PROCESSES = 2  # at once, for each frontend

_FIELD = "chat_template"
_slots = asyncio.Semaphore(MAX_PROCESSES)


async def render_untrusted(
    source: str, special_tokens: Mapping[str, str], arguments: Mapping[str, Any]
) -> str:
    """Return what `render_all_messages` returns for these arguments.

    Raises BadRequest if rendering fails, or takes too long or too much memory.
    """
    deadline_s = current_limits().chat_template_timeout_s
    job = {
        "source": source,
        "special_tokens": dict(special_tokens),
        "arguments": dict(arguments),
        "cpu_s": math.ceil(deadline_s),
    }
    async with _slots:
        output = await _run_process(json.dumps(job).encode(), deadline_s)
    if output is None:
        raise BadRequest(f"{_FIELD}: rendering takes too long or too much memory.", _FIELD)
    answer = json.loads(output)
    if "error" in answer:
        raise BadRequest(f"{_FIELD}: {answer['error']}", _FIELD)
    text: str = answer["text"]
    return text


async def _run_process(job: bytes, deadline_s: float) -> bytes | None:
    """Return the process's output; None if it does not finish."""
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", __spec__.name),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
    )
    try:
        async with asyncio.timeout(deadline_s):
            output, _ = await process.communicate(job)
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:  # also when the client has disconnected
            process.kill()
            await process.wait()
    return output if process.returncode == 0 else None


def main() -> None:
    """Read a job from stdin and write its answer to stdout."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    job = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (job["cpu_s"], job["cpu_s"]))
    try:
        template = ChatTemplate(job["source"], job["special_tokens"])
        answer = {"text": render_all_messages(template, **job["arguments"])}
    except BadRequest as error:
        answer = {"error": error.message}
    except (ValueError, RecursionError, TemplateTimeout) as error:
        answer = {"error": str(error)}
    serialized = json.dumps(answer)
    if len(serialized) > MAX_OUTPUT_BYTES:
        sys.exit(1)
    sys.stdout.write(serialized)


if __name__ == "__main__":
    main()
