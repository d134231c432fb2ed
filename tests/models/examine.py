"""Compare the product with transformers on one architecture's tiny model."""

import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from headrace.protocol.config import CpuKernels
from headrace.workers.errors import ModelUnsupported
from tests.models.catalogue import Architecture
from tests.models.making import ATTEMPTS, save_model
from tests.models.outcome import Kind, Outcome
from tests.models.prompts import Prompts, draw_prompts
from tests.models.reference import Reference, Text, distinct_share
from tests.models.serving import Served
from tests.models.shape import Shape, draw_shape

MIN_DISTINCT = 0.5


class Mismatch(AssertionError):
    """An answer is not the reference's; the message says where."""


@dataclass
class _Facts:
    is_compiled: bool = False
    distinct: float = 0.0
    preemptions: int = 0
    cached_tokens: int = 0
    texts: dict[str, Text] = field(default_factory=dict)
    reference: Reference | None = None
    remark: str = ""


def examine(architecture: Architecture, seed: int, prompts: Prompts | None = None) -> Outcome:
    """Return what became of an architecture with the model and the steps of a seed.

    prompts: others than those of the seed.
    """
    started, facts = time.monotonic(), _Facts()
    shape = draw_shape(seed)
    prompts = prompts or draw_prompts(seed, shape)
    kind, reason = _try(architecture, shape, seed, prompts, facts)
    return Outcome(
        architecture.name,
        architecture.class_name,
        kind,
        reason,
        facts.is_compiled,
        round(facts.distinct, 3),
        facts.preemptions,
        facts.cached_tokens,
        round(time.monotonic() - started, 1),
    )


def _try(
    architecture: Architecture, shape: Shape, seed: int, prompts: Prompts, facts: _Facts
) -> tuple[Kind, str]:
    kind: Kind = "no tiny model"
    reason = ""
    for attempt in range(ATTEMPTS):
        with tempfile.TemporaryDirectory(prefix="model-") as name:
            folder = Path(name)
            try:
                save_model(folder, architecture, shape, seed, attempt)
            except Exception as error:
                return kind, one_line(error)
            kind, reason = _try_folder(folder, architecture, seed, prompts, facts)
        if kind != "no tiny model" or not facts.texts:
            break
    return kind, reason


def _try_folder(
    folder: Path, architecture: Architecture, seed: int, prompts: Prompts, facts: _Facts
) -> tuple[Kind, str]:
    try:
        served = Served(folder, "torch", seed)
    except ModelUnsupported as error:
        unusable = _unusable(folder, architecture, prompts) if " fails in " in str(error) else None
        if unusable is not None:
            return "no tiny model", unusable
        return "refused", str(error).replace(f"{folder}", "the folder")
    except Exception as error:
        reason = _unusable(folder, architecture, prompts)
        if reason is not None:
            return "no tiny model", reason
        return "CRASH", f"while loading: {one_line(error)}"
    try:
        facts.reference = Reference(folder, architecture.class_name)
        facts.texts = _texts(facts.reference, prompts)
    except Exception as error:
        return "no tiny model", f"transformers cannot run it: {one_line(error)}"
    facts.distinct = distinct_share(list(facts.texts.values()))
    if facts.distinct < MIN_DISTINCT:
        return "no tiny model", f"its texts repeat: {facts.distinct:.0%} distinct tokens"
    try:
        compare(served, prompts, facts)
        _compare_compiled(folder, "auto", seed, prompts, facts)
    except Mismatch as error:
        return "WRONG", str(error)
    except Exception as error:
        return "CRASH", one_line(error)
    return ("text only" if architecture.reads_more else "served"), facts.remark


def _unusable(folder: Path, architecture: Architecture, prompts: Prompts) -> str | None:
    """Return why transformers itself cannot run the folder's model; None if it can."""
    try:
        Reference(folder, architecture.class_name).text(min(prompts.first, key=len), 2)
    except Exception as error:
        return f"transformers cannot run it: {one_line(error)}"
    return None


def _texts(reference: Reference, prompts: Prompts) -> dict[str, Text]:
    named = [(f"first {number}", each) for number, each in enumerate(prompts.first)]
    named += [(f"again {number}", each) for number, each in enumerate(prompts.again)]
    return {name: reference.text(prompt, prompts.new) for name, prompt in named}


def _compare_compiled(
    folder: Path, kernels: CpuKernels, seed: int, prompts: Prompts, facts: _Facts
) -> None:
    served = Served(folder, kernels, seed)
    facts.is_compiled = served.is_compiled
    if served.is_compiled:
        compare(served, prompts, facts)


def compare(served: Served, prompts: Prompts, facts: _Facts) -> None:
    """Compare all rounds' answers with the reference's. Raises Mismatch."""
    path = "compiled" if served.is_compiled else "torch"
    answers, facts.cached_tokens = served.batches(prompts)
    _check(answers, prompts, facts, f"{path}, batches")
    answers, facts.preemptions = served.crowded(prompts)
    _check(answers, prompts, facts, f"{path}, few blocks")
    _check(served.replayed(prompts), prompts, facts, f"{path}, replayed")


def _check(answers: dict[str, list[int]], prompts: Prompts, facts: _Facts, where: str) -> None:
    lists = {"first": prompts.first, "again": prompts.again}
    wrong = []
    for name, tokens in answers.items():
        kind, number = name.split()
        prompt = lists[kind][int(number)]
        at = _first_difference(tokens, facts.texts[name])
        if at is None:
            continue
        assert facts.reference is not None
        if len(tokens) == prompts.new and facts.reference.confirms(prompt, tokens):
            facts.remark = "transformers' generate differs from its own passes without a cache"
        else:
            wrong.append(f"{len(prompt)} tokens at {at}")
    if wrong:
        raise Mismatch(f"{where}: {len(wrong)} of {len(answers)} differ (prompt of {wrong[0]})")


def _first_difference(tokens: list[int], text: Text) -> int | None:
    """Return the first place, before any tie, where an answer is not the reference's."""
    end = min(text.first_tie, len(text.tokens))
    pairs = enumerate(zip(tokens, text.tokens, strict=False))
    at = next((number for number, (ours, theirs) in pairs if ours != theirs), len(tokens))
    return at if at < end else None


def one_line(error: BaseException) -> str:
    """Return an exception's type, its first line, and where it was raised."""
    lines = str(error).strip().splitlines() or [""]
    frames = traceback.extract_tb(error.__traceback__)
    at = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = f"{type(error).__name__}: {' '.join(lines[:2]).strip()}"
    if "--trace" in sys.argv:
        traceback.print_exception(error)
    return f"{text[:200]}{at}"
