"""python -m tests.chaos: many seeds, for as long as there is time. Exits with 1 on a finding."""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

from .harness import run
from .models import save_chaos_model


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="runs, each with its own pool")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seconds", type=float, default=30, help="of each run")
    parser.add_argument("--engine", choices=["tiny", "fake"], default="tiny")
    parser.add_argument("--secured", action="store_true", help="with API keys and TLS")
    parser.add_argument("--logs", type=Path, help="folder for the logs of runs with findings")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that its pool ends, too
    failed = 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        model = save_chaos_model(Path(name, "tiny"))
        for seed in range(args.first, args.first + args.seeds):
            cache = Path(name, "cache")
            report = run(seed, args.seconds, model, args.engine, cache, args.secured)
            print(report, flush=True)
            failed += bool(report.findings)
            if report.findings and args.logs:
                args.logs.mkdir(parents=True, exist_ok=True)
                (args.logs / f"seed-{seed}.log").write_text(report.log)
    print(f"{args.seeds} seeds of {args.seconds:.0f} s: {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
