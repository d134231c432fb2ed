"""Run batches in this frontend: claim those that no frontend runs, renew, leave them at the end."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable

from headrace.frontend.batches.batch import CANCELLING, StoredBatch
from headrace.frontend.batches.batch_run import BatchRun, LostBatch, RunTools
from headrace.frontend.batches.batch_store import BatchStore
from headrace.frontend.batches.line_gate import TICK_S
from headrace.frontend.critical_task import spawn_critical
from headrace.frontend.metrics.batch_metrics import BatchMetrics
from headrace.frontend.store.database import StoreUnavailable

log = logging.getLogger("headrace.frontend.batches")

HEARTBEAT_S = 1.0
# An owner without a heartbeat for this long has died.
STALE_S = 5.0
PRUNE_S = 60.0
# Batches that one frontend runs at once; others wait. A tenant without any has one in any case.
MAX_RUNS = 8
# How long a batch rests whose run has failed, and how many such runs it may have here.
REST_S, MAX_REST_S = 2.0, 60.0


class BatchRunner:
    """The batches that this frontend runs.

    can_run: whether this frontend serves what a batch needs.
    is_ending: whether this frontend must take no batch any more, and leave those that it has.
    """

    def __init__(
        self,
        store: BatchStore,
        tools: RunTools,
        metrics: BatchMetrics,
        can_run: Callable[[StoredBatch], bool],
        is_ending: Callable[[], bool],
    ) -> None:
        self._store, self._tools, self._metrics = store, tools, metrics
        self._can_run, self._is_ending = can_run, is_ending
        self._runs: dict[str, tuple[BatchRun, asyncio.Task[None]]] = {}
        self._rests: dict[str, tuple[float, float]] = {}  # until when, and how long
        self._tasks: list[asyncio.Task[None]] = []
        self._poked = asyncio.Event()

    def start(self) -> None:
        """Start to run batches; the process ends if a task fails."""
        loops = (self._tick_loop(), self._heartbeat_loop(), self._prune_loop())
        self._tasks = [spawn_critical(loop) for loop in loops]

    async def stop(self) -> None:
        """Leave all batches to other frontends."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._leave_all()

    def poke(self) -> None:
        """Look for new batches, and changed ones, at once."""
        self._poked.set()

    async def _leave_all(self) -> None:
        tasks = [task for _, task in self._runs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _tick_loop(self) -> None:
        gate = self._tools.lines.gate
        while True:
            due = time.monotonic() + TICK_S
            await asyncio.sleep(TICK_S)
            gate.tick(time.monotonic() - due)
            self._metrics.show_in_flight(gate.in_flight.total())

    async def _heartbeat_loop(self) -> None:
        claims_from = 0.0
        while True:
            try:
                if self._is_ending():
                    await self._leave_all()
                elif self._runs:
                    await self._renew()
                if not self._is_ending() and time.monotonic() >= claims_from:
                    await self._claim()
                self._metrics.show_batches(await self._store.count_by_status())
            except StoreUnavailable:  # it has been logged
                # No frontend could renew its heartbeats: allow the time for it.
                claims_from = time.monotonic() + STALE_S
            self._poked.clear()
            # Not asyncio.wait_for: if the event comes just then, it forgets that it was cancelled.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S * random.uniform(0.8, 1.2)):
                    await self._poked.wait()

    async def _renew(self) -> None:
        """Renew the heartbeats of the batches run here; notice what clients, or others, did."""
        ownership, gate = self._tools.ownership, self._tools.lines.gate
        runs = dict(self._runs)
        owned = await ownership.renew({each: run.in_flight for each, (run, _) in runs.items()})
        gate.others = await ownership.others(STALE_S)
        for batch_id, (run, task) in runs.items():
            stored = owned.get(batch_id)
            if stored is None:
                task.cancel()
                continue
            if stored.status == CANCELLING:
                run.cancel()
            run.check_key()
            await run.store_progress()

    async def _claim(self) -> None:
        room = MAX_RUNS - len(self._runs)
        tenants = set() if room > 0 else {run.tenant for run, _ in self._runs.values()}
        claim = self._tools.ownership.claim
        for batch in await claim(max(room, 1), STALE_S, self._may_claim, tenants):
            if batch.runs > 1:
                log.warning("continuing batch %s", batch.batch_id)
            run = BatchRun(batch, self._tools)
            task = asyncio.create_task(self._supervise(batch.batch_id, run))
            self._runs[batch.batch_id] = run, task

    def _may_claim(self, batch: StoredBatch) -> bool:
        until, _ = self._rests.get(batch.batch_id, (0.0, 0.0))
        is_here = batch.batch_id in self._runs
        return not is_here and time.monotonic() >= until and self._can_run(batch)

    async def _supervise(self, batch_id: str, run: BatchRun) -> None:
        """Run a batch; whatever happens, leave it so that it can be run again."""
        try:
            await run.run()
            self._rests.pop(batch_id, None)
            return
        except LostBatch:
            log.warning("batch %s is run by another frontend now", batch_id)
            return
        except asyncio.CancelledError:
            log.info("leaving batch %s to other frontends", batch_id)
        except (StoreUnavailable, OSError) as error:
            log.error("batch %s must wait: %s", batch_id, type(error).__name__)
            self._rest(batch_id)
        except Exception as error:
            log.error("batch %s must wait", batch_id, exc_info=error)
            self._rest(batch_id)
        finally:
            self._runs.pop(batch_id, None)
            self._poked.set()
        with contextlib.suppress(StoreUnavailable):
            await self._tools.ownership.release(batch_id)

    def _rest(self, batch_id: str) -> None:
        _, before_s = self._rests.get(batch_id, (0.0, 0.0))
        rest_s = min(max(2 * before_s, REST_S), MAX_REST_S)
        self._rests[batch_id] = time.monotonic() + rest_s, rest_s

    # Prune

    async def _prune_loop(self) -> None:
        folder = self._tools.files.folder
        while True:
            await asyncio.sleep(PRUNE_S * random.uniform(0.5, 1.5))
            with contextlib.suppress(StoreUnavailable, OSError):
                if not await self._store.can_tell_ages():
                    continue
                await self._tools.files.prune()
                await self._store.prune()
                old = await asyncio.to_thread(folder.old_batches)
                for batch_id in await self._store.ended(old[:1000]):
                    await asyncio.to_thread(folder.remove_batch, batch_id)
