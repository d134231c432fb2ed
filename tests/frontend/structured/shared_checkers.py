"""The processes that check grammars, once for all tests; each application has its own grammars."""

import atexit

from headrace.frontend.structured.checker_pool import Checkers
from headrace.frontend.structured.grammar_cache import Grammars

CHECKERS = Checkers()
atexit.register(CHECKERS.close)


def new_grammars() -> Grammars:
    return Grammars(CHECKERS)
