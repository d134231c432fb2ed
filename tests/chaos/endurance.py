"""python -m tests.chaos.endurance: an hour of load, made-up requests and deaths, all at once.

One pool with API keys and TLS. Clients compare every answer with the right one; Schemathesis sends
requests to every route with a user's key, which no operator's route takes; now and then a worker, a
frontend or the coordinator is killed or stopped, but never the first worker and the first frontend.
Findings: a wrong answer, a 5xx that does not say when to retry, a first worker or frontend that is
not the same process afterwards, and memory that grows after the first minutes. Exits with 1 on one.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.fuzz.openapi import command
from bench.load.layouts import ROOT
from tests.end_to_end.servers import Server, wait_for

from .asking import Address
from .blows import Struck, carry_out
from .catalogue import make_requests
from .harness import RECOVERY_TIMEOUT_S
from .load import Load, undisturbed
from .models import ADAPTER, model_flags, save_chaos_adapter, save_chaos_model
from .schedule import FRONTENDS, STALL_TIMEOUT_S, WORKERS, Blow, Kind, Schedule
from .secured import USER_KEY, Security, make_security
from .watch import Watch

CLIENTS = 4
SAMPLE_S = 60.0
WARM_UP_SHARE = 1 / 6  # of the time; memory may grow meanwhile
# What memory may grow by afterwards: caches that are not yet full.
MAX_GROWTH, MAX_GROWTH_MIB = 0.05, 12.0
MIB = 2**20


@dataclass
class Memory:
    """Resident memory of the pool's processes, in MiB, by pid and by the time of the sample."""

    names: dict[int, str] = field(default_factory=dict)
    samples: dict[int, list[tuple[float, float]]] = field(default_factory=dict)

    def sample(self, launcher: int, at_s: float) -> None:
        """Add a sample of the launcher and its descendants."""
        parent = psutil.Process(launcher)
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                self.names.setdefault(process.pid, _name(process))
                rss = process.memory_info().rss / MIB
                self.samples.setdefault(process.pid, []).append((at_s, rss))

    def lines(self, begun_s: float, end_s: float) -> tuple[list[str], list[str]]:
        """Return a line for each process that has lived since `begun_s`, and what has grown."""
        lines, grown = [], []
        for pid, samples in sorted(self.samples.items()):
            if samples[-1][0] < end_s - 1.5 * SAMPLE_S:
                continue
            later = [rss for at_s, rss in samples if at_s >= begun_s]
            if samples[0][0] > begun_s or len(later) < 2:
                continue
            line = f"{self.names[pid]} ({pid}): {later[0]:.1f} MiB, then {later[-1]:.1f} MiB"
            line += f", most {max(later):.1f} MiB"
            lines.append(line)
            if later[-1] - later[0] > max(MAX_GROWTH * later[0], MAX_GROWTH_MIB):
                grown.append(f"memory: {line}")
        return lines, grown


def _name(process: psutil.Process) -> str:
    words = process.cmdline()
    ids = [word for flag, word in itertools.pairwise(words) if flag.endswith("-id")]
    module = next((word for word in words if word.startswith("headrace.")), "launcher")
    return ids[0] if ids else module.removeprefix("headrace.").removesuffix(".main")


def make_blows(seed: int, seconds: float) -> Schedule:
    """Return what is struck when: never the first worker and the first frontend."""
    chance = random.Random(f"endurance {seed}")
    blows: list[Blow] = []
    at_s = chance.uniform(5, 20)
    while at_s < seconds - 30:
        kind = chance.choice(["worker", "worker", "frozen worker", "frontend", "coordinator"])
        if kind == "coordinator":
            blows.append(Blow(at_s, "kill", "coordinator", 0))
        elif kind == "frontend":
            blows.append(Blow(at_s, "kill", "frontend", chance.randrange(1, FRONTENDS)))
        else:
            strike: Kind = "stop" if kind == "frozen worker" else "kill"
            blows.append(Blow(at_s, strike, "worker", chance.randrange(1, WORKERS)))
        at_s += chance.uniform(15, 60)
    return Schedule(tuple(blows), "calm")


class Endurance:
    """One run. findings: what must not be."""

    def __init__(self, server: Server, security: Security, certificate: Path, folder: Path) -> None:
        self._server, self._security = server, security
        self._certificate, self._folder = certificate, folder
        self._watch = Watch(server)
        self.findings: list[str] = []
        self.memory = Memory()
        self.struck = Struck()

    def run(self, seed: int, seconds: float) -> dict[str, int]:
        """Return how many requests of the clients ended how."""
        try:
            return asyncio.run(self._run(seed, seconds))
        finally:
            self._watch.close()

    async def _run(self, seed: int, seconds: float) -> dict[str, int]:
        port = int(self._server.url.rpartition(":")[2])
        address = Address("127.0.0.1", port, self._security.key, self._security.context)
        before = self._first()
        answers = await undisturbed(address, make_requests())
        load = Load(address, answers, self._watch, self.struck, self.findings)
        tasks = [asyncio.create_task(load.client(f"{seed} {number}")) for number in range(CLIENTS)]
        tasks.append(asyncio.create_task(load.onlooker()))
        begun = time.monotonic()
        sampling = asyncio.create_task(self._sample(begun))
        asked = asyncio.to_thread(self._ask_everything, seed, begun + seconds)
        blows = carry_out(make_blows(seed, seconds), self._watch, self.struck)
        try:
            await asyncio.gather(asked, blows)
            load.over = True
            await asyncio.gather(*tasks)
            await asyncio.to_thread(wait_for, self._is_whole, "all are back", RECOVERY_TIMEOUT_S)
        finally:
            sampling.cancel()
        self._must(self._first() == before, f"first processes {before}, now {self._first()}")
        self._must("Traceback" not in self._server.log, "a traceback in the log")
        return dict(load.counts)

    def _first(self) -> dict[str, int]:
        """Return the pids of the processes that nothing strikes."""
        roles = ("worker", "frontend")
        living = {role: self._watch.living(role) for role in roles}
        return {role: each.pid for role in roles for each in living[role] if each.place == 0}

    def _is_whole(self) -> bool:
        workers = self._watch.living("worker")
        return len(workers) == WORKERS and all(each.pid in self._watch.ready for each in workers)

    async def _sample(self, begun: float) -> None:
        while True:
            await asyncio.to_thread(
                self.memory.sample, self._server.process.pid, time.monotonic() - begun
            )
            await asyncio.sleep(SAMPLE_S)

    def _ask_everything(self, seed: int, until: float) -> None:
        """Run Schemathesis again and again, with other seeds."""
        document = self._folder / "openapi.json"
        document.write_bytes(self._server.get("/openapi.json").raise_for_status().content)
        environment = {**os.environ, "SCHEMATHESIS_HOOKS": "bench.fuzz.checks"}
        while time.monotonic() < until and not self.findings:
            arguments = command(document, self._server.url, USER_KEY, 20, seed)
            arguments += ["--tls-verify", str(self._certificate), "--request-retries", "5"]
            arguments += ["--max-time", str(max(1, round(until - time.monotonic())))]
            with (self._folder / "schemathesis.log").open("w") as log:
                ended = subprocess.run(
                    arguments, check=False, env=environment, cwd=ROOT, stdout=log, stderr=log
                )
            text = (self._folder / "schemathesis.log").read_text()
            self._must(ended.returncode == 0, f"Schemathesis, seed {seed}:\n{text[-6000:]}")
            print(f"schemathesis, seed {seed}: {text.strip().splitlines()[-1]}", flush=True)
            seed += 1

    def _must(self, holds: bool, what: str) -> None:
        if not holds:
            self.findings.append(what)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.endurance", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=["tiny", "fake"], default="tiny")
    parser.add_argument("--log", type=Path, help="file for the pool's log")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    seconds = 60 * args.minutes
    with tempfile.TemporaryDirectory(prefix="endurance-") as name:
        folder = Path(name)
        security = make_security(folder / "security")
        pool = ["--frontends", str(FRONTENDS), "--workers", str(WORKERS)]
        pool += ["--stall-timeout", str(STALL_TIMEOUT_S), "--enable-admin", "--enable-lora"]
        model = save_chaos_model(folder / "tiny")
        adapter = save_chaos_adapter(folder / "adapter", model, args.engine)
        pool += ["--lora-modules", f"{ADAPTER}={adapter}"]
        server = Server(
            [*model_flags(model, args.engine), *pool, *security.flags],
            folder / "cache",
            key=security.key,
            context=security.context,
        )
        try:
            run = Endurance(server, security, folder / "security" / "certificate.pem", folder)
            counts = run.run(args.seed, seconds)
        finally:
            server.stop()
            if args.log:
                args.log.write_text(server.log)
    lines, grown = run.memory.lines(WARM_UP_SHARE * seconds, seconds)
    print("\n".join([*lines, f"{counts}", f"{len(run.struck.strikes)} strikes"]))
    findings = [*run.findings, *grown]
    print("\n".join(f"FOUND {finding}" for finding in findings) or "no finding")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
