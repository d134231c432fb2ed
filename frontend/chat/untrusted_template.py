"""Templates that requests bring: programs of clients, run in a process of their own.

The sandbox keeps them from everything but their variables, but not from running or growing without
end. That is what the process is for: it has a deadline and little memory, and its end harms nobody.
"""

import asyncio
import json
import os
import resource
import sys
from collections.abc import Mapping
from typing import Any

from headrace.frontend.chat.templates import ChatTemplate
from headrace.frontend.errors import BadRequest

DEADLINE_S = 5.0
CPU_S = 5
MEMORY_BYTES = 1 << 30
MAX_OUTPUT_BYTES = 16 << 20
PROCESSES = 2  # at once, of one frontend

_FIELD = "chat_template"
_slots = asyncio.Semaphore(PROCESSES)


async def render_untrusted(
    source: str, special_tokens: Mapping[str, str], arguments: Mapping[str, Any]
) -> str:
    """What ChatTemplate.render gives for these arguments. BadRequest if it takes too long, or more
    memory than it may, or fails."""
    task = json.dumps(
        {"source": source, "special_tokens": dict(special_tokens), "arguments": dict(arguments)}
    )
    async with _slots:
        output = await _run(task.encode())
    if output is None:
        raise BadRequest(f"{_FIELD}: rendering takes too long or too much memory.", _FIELD)
    answer = json.loads(output)
    if "error" in answer:
        raise BadRequest(f"{_FIELD}: {answer['error']}", _FIELD)
    text: str = answer["text"]
    return text


async def _run(task: bytes) -> bytes | None:
    """What the process writes; None if it does not come to its end."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", __spec__.name),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=kept,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(task), DEADLINE_S)
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:  # also when the client has gone
            process.kill()
            await process.wait()
    return output if process.returncode == 0 else None


def main() -> None:
    """Read a task, write its answer."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    task = json.load(sys.stdin)
    try:
        template = ChatTemplate(task["source"], task["special_tokens"])
        answer = {"text": template.render(**task["arguments"])}
    except BadRequest as error:
        answer = {"error": error.message}
    except (ValueError, RecursionError) as error:
        answer = {"error": str(error)}
    written = json.dumps(answer)
    if len(written) > MAX_OUTPUT_BYTES:
        sys.exit(1)
    sys.stdout.write(written)


if __name__ == "__main__":
    main()
