"""python -m tests.models: every architecture of transformers. Exits with 1 if one is wrong."""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from tests.models.catalogue import architectures
from tests.models.outcome import Outcome
from tests.models.sweep import sweep
from tests.models.table import DOCUMENT, with_table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.models", description=__doc__)
    parser.add_argument("names", nargs="*", help="of architectures, such as llama; none: all")
    parser.add_argument("--seed", type=int, default=0, help="of sizes, weights, prompts and steps")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--json", type=Path, help="file for the outcomes")
    parser.add_argument("--table", action="store_true", help="write the table in docs/models.md")
    given = parser.parse_args()
    if given.table and given.names:
        parser.error("--table is of all architectures")
    chosen = [each for each in architectures() if not given.names or each.name in given.names]
    outcomes: list[Outcome] = []

    def report(outcome: Outcome) -> None:
        print(f"{outcome.name}: {outcome.kind} {outcome.reason} {outcome.seconds} s", flush=True)
        outcomes.append(outcome)
        if given.json:
            given.json.write_text(json.dumps([each.to_json() for each in outcomes], indent=1))

    sweep(chosen, given.seed, given.jobs, report)
    counts = Counter(outcome.kind for outcome in outcomes)
    print(", ".join(f"{count} {kind}" for kind, count in counts.most_common()))
    if given.table:
        DOCUMENT.write_text(with_table(DOCUMENT.read_text(), outcomes))
    return 1 if counts["WRONG"] or counts["CRASH"] else 0


if __name__ == "__main__":
    sys.exit(main())
