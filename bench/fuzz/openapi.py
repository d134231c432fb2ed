"""Let Schemathesis send requests made from the server's own OpenAPI document to every route.

Three pools of the fake engine, one after the other: without keys; with keys, asked with an admin's;
with keys, asked without one, so that every answer but the public routes' must be a 401. No 5xx may
come back but a 503 that says when to retry, errors must be of the API's shapes and show no
internals, and the workers must be the same ones afterwards.

Usage: python -m bench.fuzz.openapi [--minutes 10] [--examples 50] [--seed 1] [--only CASE]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from bench.fuzz.checks import MUST_REJECT
from bench.fuzz.requests import POOL_FLAGS, TIMEOUT_S, workers_of
from bench.load.fake_pools import pool
from bench.load.layouts import ROOT

USER_KEY, ADMIN_KEY = "fuzz-user-key", "fuzz-admin-key"
# A paused pool answers nothing until another request resumes it.
LEFT_OUT = "^/pause$"
WITH_KEYS = ("--api-key", USER_KEY, "--admin-key", ADMIN_KEY)
# Case -> flags of the pool, the key that requests carry.
CASES: Mapping[str, tuple[Sequence[str], str]] = {
    "no-keys": ((), ""),
    "admin-key": (WITH_KEYS, ADMIN_KEY),
    "missing-key": (WITH_KEYS, ""),
}


def command(document: Path, url: str, key: str, examples: int, seed: int) -> list[str]:
    """Return Schemathesis' command for a server. key: sent with each request, unless empty."""
    arguments = [
        *(sys.executable, "-m", "schemathesis.cli", "run", str(document), "--url", url),
        *("--checks", "honest_errors,rejected_without_key"),
        *("--phases", "coverage,fuzzing", "--max-examples", str(examples), "--seed", str(seed)),
        *("--exclude-path-regex", LEFT_OUT, "--request-timeout", str(TIMEOUT_S)),
        *("--suppress-health-check", "all", "--no-color", "--generation-database", "none"),
    ]
    return [*arguments, *(("--header", f"Authorization: Bearer {key}") if key else ())]


def fuzz(case: str, examples: int, seed: int) -> bool:
    """Run a case. Returns whether no rule was broken."""
    flags, key = CASES[case]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "bench.fuzz.checks"}
    if flags and not key:
        environment[MUST_REJECT] = "1"
    headers = {"authorization": f"Bearer {ADMIN_KEY}"} if flags else {}
    with (
        pool(ROOT, None, 0.0, (*POOL_FLAGS, *flags)) as running,
        httpx.Client(base_url=running.url, timeout=TIMEOUT_S, headers=headers) as client,
        tempfile.NamedTemporaryFile(suffix=".json") as document,
    ):
        document.write(client.get("/openapi.json").raise_for_status().content)
        document.flush()
        before = workers_of(client)
        arguments = command(Path(document.name), running.url, key, examples, seed)
        ended = subprocess.run(arguments, check=False, env=environment, cwd=ROOT).returncode
        after = workers_of(client)
    if after != before:
        print(f"{case}: the workers were {before}, now {after}")
    return ended == 0 and after == before


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="of all cases together")
    parser.add_argument("--examples", type=int, default=50, help="of a route in a round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=list(CASES), help="one case")
    args = parser.parse_args()
    cases = [args.only] if args.only else list(CASES)
    number, end = args.seed, time.monotonic() + 60 * args.minutes
    while True:
        for case in cases:
            print(f"{case}, seed {number}", flush=True)
            if not fuzz(case, args.examples, number):
                return 1
        number += 1
        if time.monotonic() >= end:
            return 0


if __name__ == "__main__":
    sys.exit(main())
