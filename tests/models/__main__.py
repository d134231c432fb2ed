"""python -m tests.models: every architecture of transformers. Exits with 1 if one is wrong."""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from headrace.protocol.common.atomic_write import write_atomically
from tests.models.catalogue import architectures
from tests.models.outcome import Outcome
from tests.models.sweep import sweep
from tests.models.table import DOCUMENT, with_table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.models", description=__doc__)
    add = parser.add_argument
    add("names", nargs="*", help="of architectures, such as llama; none: all")
    add("--seed", type=int, default=0, help="of sizes, weights, prompts and steps")
    add("--jobs", type=int, default=2, help="processes at a time")
    add("--json", type=Path, help="file for the outcomes; those of others in it are kept")
    add("--table", action="store_true", help="write the table in docs/models.md")
    given = parser.parse_args()
    known = [each.name for each in architectures()]
    if unknown := set(given.names) - set(known):
        parser.error(f"no architecture is called {min(unknown)}")
    outcomes = _read(given.json)
    chosen = [each for each in architectures() if not given.names or each.name in given.names]
    if given.table and not outcomes.keys() | {each.name for each in chosen} >= set(known):
        parser.error("--table needs the outcomes of all architectures")

    def report(outcome: Outcome) -> None:
        print(f"{outcome.name}: {outcome.kind} {outcome.reason} {outcome.seconds} s", flush=True)
        outcomes[outcome.name] = outcome
        if given.json:
            found = [each.to_json() for each in outcomes.values()]
            write_atomically(given.json, json.dumps(found, indent=1).encode())

    counts = Counter(outcome.kind for outcome in sweep(chosen, given.seed, given.jobs, report))
    print(", ".join(f"{count} {kind}" for kind, count in counts.most_common()))
    if given.table:
        ordered = [outcomes[name] for name in known]
        DOCUMENT.write_text(with_table(DOCUMENT.read_text(), ordered))
    return 1 if counts["WRONG"] or counts["CRASH"] else 0


def _read(path: Path | None) -> dict[str, Outcome]:
    """Return the outcomes of an earlier sweep by name; none if there is no such file."""
    if path is None or not path.exists():
        return {}
    return {each["name"]: Outcome(**each) for each in json.loads(path.read_text())}


if __name__ == "__main__":
    sys.exit(main())
