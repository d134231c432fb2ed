"""Validate made-up bodies with every request model, without a server.

A body becomes a model, or an error of the API that names what is wrong, in text that a client may
see. Hypothesis shrinks a body that breaks this rule; it is printed.

Usage: python -m bench.fuzz.models [--minutes 10] [--seed 0] [--only ChatCompletionRequest]
"""

import argparse
import importlib
import json
import logging
import pkgutil
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import headrace.frontend.schemas
from bench.fuzz.bodies import ANYTHING, bodies
from headrace.frontend.errors import ApiError
from headrace.frontend.http.parsing import parse_object, validate
from headrace.frontend.schemas.fields import RequestModel

EXAMPLES = 100  # of a model in a round
MAX_ERROR_CHARS = 2000
_LEAKS = re.compile(r"0x[0-9a-f]{6,}|Traceback|site-packages|/headrace/|pydantic|<class ")


class ModelRuleBroken(Exception):
    """A body that is neither a model nor a proper error."""


def request_models() -> list[type[BaseModel]]:
    """Return all models of request bodies."""
    package = headrace.frontend.schemas
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    return sorted(_subclasses(RequestModel), key=lambda model: model.__name__)


def _subclasses(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for child in model.__subclasses__():
        if child.__module__.startswith(headrace.frontend.schemas.__name__):
            yield child
        yield from _subclasses(child)


def check_body(model: type[BaseModel], data: bytes) -> int:
    """Return the status of a body: 200, or that of its error. Raises ModelRuleBroken."""
    try:
        validate(model, parse_object(data))
    except ApiError as error:
        text = json.dumps(error.body())
        if not 400 <= error.status < 500 or len(text) > MAX_ERROR_CHARS or _LEAKS.search(text):
            raise ModelRuleBroken(f"{error.status} {text[:500]}") from error
        return error.status
    return 200


def fuzz_model(model: type[BaseModel], number: int, examples: int = EXAMPLES) -> None:
    """Validate bodies of one model. Raises ModelRuleBroken with the smallest that breaks a rule."""
    schema = model.model_json_schema()
    components = schema.get("$defs", {})

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(bodies(schema, components, "m") | st.dictionaries(st.text(max_size=5), ANYTHING))
    def send(body: Any) -> None:
        data = json.dumps(body).encode()
        try:
            check_body(model, data)
        except Exception as error:
            raise ModelRuleBroken(f"{model.__name__} {data.decode()}\n{error!r}") from error

    send()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of the models' names")
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # lines about ignored fields
    models = [model for model in request_models() if args.only in model.__name__]
    number, end = args.seed, time.monotonic() + 60 * args.minutes
    while time.monotonic() < end:
        for model in models:
            try:
                fuzz_model(model, number)
            except ModelRuleBroken as error:
                print(f"seed {number}: {error}")
                return 1
        number += 1
    print(f"{len(models)} models, seeds {args.seed} to {number - 1}: no rule broken")
    return 0


if __name__ == "__main__":
    sys.exit(main())
