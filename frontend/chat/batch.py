"""Run several chats of one request side by side, and join their answers."""

import asyncio
from collections.abc import Sequence
from typing import Any

from headrace.frontend.chat.chat_run import AnsweredChoice, ChatRun


async def gather_answers(runs: Sequence[ChatRun]) -> list[list[AnsweredChoice]]:
    """Return the choices of each run.

    Raises the error of the first run that fails, and cancels the others.
    """
    tasks = [asyncio.create_task(run.answers()) for run in runs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def join_answers(bodies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join the answers of several chats: a choice for each chat, and the sum of their tokens.

    Fields that describe a single prompt are None.
    """
    choices = [
        {**choice, "index": index}
        for index, body in enumerate(bodies)
        for choice in body["choices"]
    ]
    usage = _sum_usages([body["usage"] for body in bodies])
    prompt_fields = {"prompt_logprobs": None, "prompt_token_ids": None, "prompt_text": None}
    return {**bodies[0], **prompt_fields, "choices": choices, "usage": usage}


def _sum_usages(usages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add up numbers at all depths.

    All usages must have the same keys, with None in the same fields.
    """
    total: dict[str, Any] = {}
    for key, value in usages[0].items():
        values = [usage[key] for usage in usages]
        if value is None:
            total[key] = None
        else:
            total[key] = _sum_usages(values) if isinstance(value, dict) else sum(values)
    return total
