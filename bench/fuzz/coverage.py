"""Look for bytes that break a reader's rules, led by the code that they reach (Atheris).

Begins with the inputs that are kept for each target (bench/fuzz/corpus) and keeps those that reach
more code with --keep. Bytes that break a rule are printed in Base64; libFuzzer's own messages go to
stderr.

Usage: python -m bench.fuzz.coverage [TARGET ...] [--minutes 10] [--runs N] [--keep] [--seed 1]
"""

import argparse
import base64
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.fuzz import corpora

MAX_BYTES = 512
MAX_KEPT = 400  # inputs of a target
TIMEOUT_S = 20  # of one input: libFuzzer calls it a hang
RSS_MIB = 2048
_PROGRAM = "HEADRACE_FUZZ_PROGRAM"


def fuzz_here(target: str, arguments: list[str]) -> None:
    """Run libFuzzer on a target in this process, which it ends."""
    import atheris

    with atheris.instrument_imports(include=["headrace"]):
        from bench.fuzz.targets import TARGETS
    function = TARGETS[target]
    function(b"")  # what it imports and caches at first is no news of an input
    atheris.Setup([os.environ[_PROGRAM], *arguments], function)
    atheris.Fuzz()


def fuzz(target: str, limits: list[str], seed: int, keep: bool) -> bool:
    """Fuzz a target in a process of its own. Returns whether no rule was broken."""
    with tempfile.TemporaryDirectory() as scratch:
        found, known = Path(scratch, "found"), Path(scratch, "known")
        found.mkdir()
        corpora.write_files(corpora.load(target), known)
        options = [*limits, f"-seed={seed}", f"-max_len={MAX_BYTES}", f"-timeout={TIMEOUT_S}"]
        options += [f"-rss_limit_mb={RSS_MIB}", "-verbosity=0", f"-artifact_prefix={scratch}/"]
        ended = _run(target, [*options, str(found), str(known)], Path(scratch))
        for artifact in Path(scratch).glob("*-*"):
            if artifact.is_file():
                print(f"{target}: {artifact.name.partition('-')[0]}")
                print(base64.b64encode(artifact.read_bytes()).decode())
        if keep:
            _keep(target, Path(scratch))
        return ended == 0


def _keep(target: str, scratch: Path) -> None:
    """Keep what was known, and those new inputs that reach more."""
    known = scratch / "known"
    _run(target, ["-merge=1", "-verbosity=0", str(known), str(scratch / "found")], scratch)
    before = corpora.load(target)
    new = sorted(set(corpora.read_files(known)) - set(before), key=len)
    inputs = [*before, *new][:MAX_KEPT]
    corpora.save(target, inputs)
    print(f"{target}: {len(inputs)} inputs kept")


def _run(target: str, arguments: list[str], scratch: Path) -> int:
    """Run libFuzzer on a target. It starts itself again to merge, by the name of its program."""
    program = scratch / "program"
    command = [sys.executable, "-m", "bench.fuzz.coverage", "--here", target]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    program.chmod(0o700)
    environment = {**os.environ, _PROGRAM: str(program)}
    return subprocess.run([str(program), *arguments], check=False, env=environment).returncode


def main() -> int:
    if sys.argv[1:2] == ["--here"]:
        fuzz_here(sys.argv[2], sys.argv[3:])
        return 0
    from bench.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--minutes", type=float, default=10.0, help="for each target")
    parser.add_argument("--runs", type=int, help="inputs for each target, in place of minutes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep inputs that reach more code")
    args = parser.parse_args()
    unknown = set(args.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}")
    seconds = max(1, round(60 * args.minutes))
    limits = [f"-max_total_time={seconds}"] if args.runs is None else [f"-runs={args.runs}"]
    passed = [fuzz(name, limits, args.seed, args.keep) for name in args.targets or TARGETS]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
