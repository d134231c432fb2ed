"""The processes that check grammars, once for all tests; each application has its own grammars."""

import asyncio
import atexit

from headrace.frontend.structured.checker_pool import CheckerPool
from headrace.frontend.structured.grammar_cache import GrammarCache

CHECKERS = CheckerPool()
atexit.register(CHECKERS.close)


def new_grammars() -> GrammarCache:
    return GrammarCache(CHECKERS)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)
