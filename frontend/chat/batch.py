"""Several chats of one request, side by side, and their answers as one."""

import asyncio
from collections.abc import Sequence
from typing import Any

from headrace.frontend.chat.chat_run import AnsweredChoice, ChatRun


async def gather_answers(runs: Sequence[ChatRun]) -> list[list[AnsweredChoice]]:
    """The answers of each run. Raises what the first that fails does; the others end then."""
    tasks = [asyncio.create_task(run.answers()) for run in runs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def join_answers(bodies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The whole answers of chats as one: a choice for each, and all tokens together.

    What is told of a prompt besides is left out, as it would be that of one chat only.
    """
    choices = [
        {**choice, "index": place}
        for place, body in enumerate(bodies)
        for choice in body["choices"]
    ]
    usage = _summed([body["usage"] for body in bodies])
    of_prompts = {"prompt_logprobs": None, "prompt_token_ids": None, "prompt_text": None}
    return {**bodies[0], **of_prompts, "choices": choices, "usage": usage}


def _summed(usages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Numbers added up, at all depths. All have the same keys, and None in the same places."""
    total: dict[str, Any] = {}
    for key, value in usages[0].items():
        values = [usage[key] for usage in usages]
        if value is None:
            total[key] = None
        else:
            total[key] = _summed(values) if isinstance(value, dict) else sum(values)
    return total
