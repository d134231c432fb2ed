"""One run: a pool, its load, what strikes it, and what has to be true afterwards."""

import asyncio
import contextlib
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.chaos.schedule import Role
from tests.end_to_end.servers import Server, wait_for

from .asking import Address
from .blows import Struck, carry_out, strike
from .catalogue import make_requests
from .load import Load, undisturbed
from .models import ADAPTER, model_flags, save_chaos_adapter
from .operator import first_answer, operate
from .schedule import FRONTENDS, STALL_TIMEOUT_S, WORKERS, Blow, Schedule, make_schedule
from .secured import Security, make_security
from .watch import Watch

CLIENTS = 10
# Everything has come back long before that: a slot whose process has died six times waits 8 s.
RECOVERY_TIMEOUT_S = 120.0
_GAUGES = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "server_load")


@dataclass
class Report:
    """findings: what must not be; a run without any has passed."""

    seed: int
    schedule: Schedule
    findings: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    strikes: list[str] = field(default_factory=list)
    log: str = ""

    def __str__(self) -> str:
        lines = [f"seed {self.seed} ({self.schedule.ending}): {self.counts}"]
        if self.findings:
            lines += [f"  {line}" for line in self.strikes]
            lines += [f"  FOUND {finding[:2000]}" for finding in self.findings]
        return "\n".join(lines)


def run(
    seed: int, seconds: float, folder: Path, engine: str, cache_dir: Path, secured: bool = False
) -> Report:
    """Start a pool, disturb it for so long, stop it. secured: with keys and TLS."""
    security = make_security(cache_dir.with_name("security")) if secured else Security()
    pool = ["--frontends", str(FRONTENDS), "--workers", str(WORKERS)]
    stall = ["--stall-timeout", str(STALL_TIMEOUT_S)]
    adapter = save_chaos_adapter(cache_dir.with_name(f"adapter-{seed}"), folder, engine)
    lora = ["--enable-lora", "--lora-modules", f"{ADAPTER}={adapter}", "--enable-admin"]
    flags = [*model_flags(folder, engine), *pool, *stall, *lora, *security.flags]
    server = Server(flags, cache_dir, key=security.key, context=security.context)
    report = Report(seed, make_schedule(seed, seconds))
    watch = Watch(server)
    try:
        asyncio.run(_Run(server, security, watch, report, adapter).whole(seconds))
    except Exception as error:
        report.findings.append(f"{type(error).__name__}: {error}")
    finally:
        with contextlib.suppress(Exception):
            server.stop(signal.SIGKILL)
        watch.close()
    report.log = server.log
    return report


class _Run:
    def __init__(
        self, server: Server, security: Security, watch: Watch, report: Report, adapter: Path
    ) -> None:
        self._server, self._watch, self._report = server, watch, report
        self._adapter = adapter
        self._struck = Struck(strikes=report.strikes)
        url = httpx.URL(server.url)
        context = security.context if security.has_tls else None
        self._address = Address(url.host, url.port or 80, security.key, context)

    async def whole(self, seconds: float) -> None:
        answers = await undisturbed(self._address, make_requests())
        of_visitor = await first_answer(self._address, self._adapter)
        load = Load(self._address, answers, self._watch, self._struck, self._report.findings)
        seeds = [f"client {self._report.seed} {number}" for number in range(CLIENTS)]
        clients = [asyncio.create_task(load.client(seed)) for seed in seeds]
        clients.append(asyncio.create_task(load.onlooker()))
        clients.append(asyncio.create_task(operate(load, self._adapter, of_visitor)))
        blows = carry_out(self._report.schedule, self._watch, self._struck)
        await asyncio.gather(blows, _pass(seconds, load))
        if self._report.schedule.ending == "loaded":
            load.stopped_at = time.monotonic()
            self._server.process.send_signal(signal.SIGTERM)
        load.over = True
        await asyncio.gather(*clients)
        self._report.counts = dict(load.counts)
        if self._report.schedule.ending == "calm":
            await self._calm(load)
        elif self._report.schedule.ending == "restarting":
            self._restart_some()
        await asyncio.to_thread(self._end)

    async def _calm(self, load: Load) -> None:
        """All is as if nothing had been."""
        await asyncio.to_thread(wait_for, self._is_complete, "all are back", RECOVERY_TIMEOUT_S)
        await asyncio.to_thread(wait_for, self._is_idle, "nothing is left of the load", 30)
        again = await undisturbed(self._address, make_requests())
        for name, (_, outcome) in load.answers.items():
            for difference in outcome.differences(again[name][1]):
                self._report.findings.append(f"{name!r} afterwards: {difference}")

    def _is_complete(self) -> bool:
        """Each slot is filled, once, and its worker is ready."""
        workers, frontends = self._watch.living("worker"), self._watch.living("frontend")
        ready = [worker.pid in self._watch.ready for worker in workers]
        return (len(workers), len(frontends)) == (WORKERS, FRONTENDS) and all(ready)

    def _is_idle(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            idle = all(self._server.metric(f"headrace:{name}") == 0 for name in _GAUGES)
            return idle and self._server.get("/load").json() == {"server_load": 0}
        return False

    def _restart_some(self) -> None:
        """The end comes at any stage of restarts."""
        chance = random.Random(f"end {self._report.seed}")
        roles: tuple[tuple[Role, int], ...] = (
            ("worker", WORKERS),
            ("frontend", FRONTENDS),
            ("coordinator", 1),
        )
        for role, slots in roles:
            if chance.random() < 0.6:
                blow = Blow(0.0, "kill", role, chance.randrange(slots))
                strike(blow, self._watch, self._struck)
                time.sleep(0.001 * 1000 ** chance.random())

    def _end(self) -> None:
        if self._report.schedule.ending == "loaded":  # it has had its signal
            self._server.process.wait(60)
        status = self._server.stop(timeout_s=60)
        self._must(status == 0, f"exit status {status}")
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not self._watch.survivors(), "all have ended", 5)
        self._must(not self._watch.survivors(), f"left behind: {self._watch.survivors()}")
        self._must(not self._server.run_dir.exists(), "the run directory is left")
        self._must("Traceback" not in self._server.log, "a traceback in the log")

    def _must(self, holds: bool, what: str) -> None:
        if not holds:
            self._report.findings.append(what)


async def _pass(seconds: float, load: Load) -> None:
    """Wait; not any longer once there is a finding."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await load.found.wait()
