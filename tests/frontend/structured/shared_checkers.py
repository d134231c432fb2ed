"""The processes that check grammars, once for all tests; each application has its own grammars."""

import atexit

from headrace.frontend.structured.checker_pool import CheckerPool
from headrace.frontend.structured.grammar_cache import GrammarCache

CHECKERS = CheckerPool()
atexit.register(CHECKERS.close)


def new_grammars() -> GrammarCache:
    return GrammarCache(CHECKERS)
