"""The launcher: parent of all processes of a pool on one host.

It holds the HTTP socket and its children, and no state of its own: the coordinator decides which
workers there are to be, and a restarted coordinator learns from it who runs and what the one before
has last said of them.
"""

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import time
from typing import Any

import zmq
import zmq.asyncio

from coordinator.awake_clock import AwakeClock
from coordinator.children import Child, Children
from coordinator.clean_up import clean_up_after
from coordinator.hardware import worker_environment
from coordinator.pool_status import has_all_workers, is_complete, pool_status
from coordinator.restarts import Restarts
from coordinator.roll import Member
from coordinator.rolling import RollingFailed, Steps, roll
from protocol import PROTOCOL_VERSION, sockets, to_coordinator, to_launcher, to_worker
from protocol.codec import DecodeError
from protocol.config import PoolConfig
from protocol.process import EX_CONFIG
from protocol.sd_notify import Notifier
from protocol.state import STATE, PoolState

log = logging.getLogger("launcher")

COORDINATOR, FRONTEND, WORKER = "coordinator", "frontend", "worker"
# Beyond the time that requests have: their clients are told that they are not finished.
FRONTEND_STOP_TIMEOUT_S = 4.0
# Workers are stopped when no frontend is left, so that they have nothing to finish.
WORKER_STOP_TIMEOUT_S = 5.0
COORDINATOR_STOP_TIMEOUT_S = 2.0
# A coordinator speaks every second, once it has its imports behind it. A silent one is replaced.
COORDINATOR_START_S = 60.0
LEAST_SILENCE_S = 3.0
COORDINATOR_POLL_S = 0.5
# How often to try again what the system refuses to start, and how often while requests wait for it.
RETRY_S = 30.0
STOPPING_RETRY_S = 0.5
# How often systemd is told how the pool does.
STATUS_S = 1.0


class Supervisor:
    """Runs a pool until a signal ends it. `listener` is the bound HTTP socket.

    frontends_last: start the frontends when the workers are ready. Until then connections wait in
        the socket: the request that made systemd start the pool would otherwise get a 503.
    """

    def __init__(
        self,
        config: PoolConfig,
        listener: socket.socket,
        url: str,
        notifier: Notifier,
        frontends_last: bool,
    ) -> None:
        self._config, self._listener, self._url = config, listener, url
        self._notifier, self._frontends_wait = notifier, frontends_last
        self._children = Children(self._on_exit)
        self._restarts: dict[str, Restarts] = {}
        self._stop = asyncio.Event()
        self._stops_workers = False  # they are replaced for as long as frontends have requests
        self._lacks_coordinator = False  # the system will not have it started
        self._last_workers: dict[str, str] = {}  # newest id by place
        self._published: PoolState | None = None
        self._clock = AwakeClock(longest_turn_s=2 * COORDINATOR_POLL_S)
        self._coordinator_due = math.inf  # by when, on that clock, it is to have spoken
        self._roll_wanted = asyncio.Event()
        self._exit_status = 0
        self._announced = False
        self._status_at = 0.0
        self._started_at = time.monotonic()
        context = zmq.asyncio.Context.instance()
        self._control = sockets.dealer(
            context, sockets.control_endpoint(config.run_dir), "launcher"
        )
        self._state = sockets.subscriber(context, sockets.state_endpoint(config.run_dir))

    async def run(self) -> int:
        """The exit status: 0 after a signal, 1 if the pool could not be started."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._roll_wanted.set)
        await self._start_coordinator()
        if not self._frontends_wait:
            await self._start_frontends()
        await self._greet()
        work = (
            self._obey(),
            self._watch_state(),
            self._watch_coordinator(),
            self._feed_watchdog(),
        )
        tasks = [asyncio.create_task(each) for each in work]
        for task in tasks:
            task.add_done_callback(self._on_task_done)
        roller = asyncio.create_task(self._roll())
        roller.add_done_callback(self._on_task_done)
        await self._stop.wait()
        roller.cancel()
        await self._stop_children()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        zmq.asyncio.Context.instance().destroy(linger=0)
        return self._exit_status

    # Starting

    async def _start_coordinator(self) -> None:
        await self._start(COORDINATOR, COORDINATOR, "coordinator.main", [], {})
        self._coordinator_due = self._clock.now() + COORDINATOR_START_S
        self._lacks_coordinator = False

    async def _start_frontends(self) -> None:
        self._frontends_wait = False
        for index in range(self._config.frontends):
            await self._start_frontend(f"frontend-{index}")

    async def _start_frontend(self, place: str) -> str:
        """Returns its id, which tells its starts apart: the workers number messages by it."""
        process_id = self._next_id(place)
        arguments = ["--frontend-id", process_id, "--http-fd", str(self._listener.fileno())]
        await self._start(
            process_id,
            FRONTEND,
            "frontend.main",
            arguments,
            {"TOKENIZERS_PARALLELISM": "false"},
            (self._listener.fileno(),),
        )
        await self._tell(to_coordinator.FrontendStarted(process_id))
        if self._stop.is_set():  # it was not yet there when the others were told
            self._children.kill(process_id)
        return process_id

    async def _start_worker(self, order: to_launcher.StartWorker) -> None:
        arguments = ["--worker-id", order.worker_id, "--group", order.group]
        group = self._config.group(order.group)
        environment = worker_environment(
            self._place_on_host(order.worker_id),
            workers=sum(each.workers for each in self._config.groups),
            threads=group.engine.threads,
        )
        await self._start(order.worker_id, WORKER, "workers.main", arguments, environment)
        if self._stops_workers:
            self._children.kill(order.worker_id)

    def _place_on_host(self, worker_id: str) -> int:
        """The worker's number among the workers of all groups."""
        name, _, number = worker_id.rpartition(".")[0].rpartition("-")
        before = 0
        for group in self._config.groups:
            if group.name == name:
                break
            before += group.workers
        return before + int(number)

    async def _start(
        self,
        process_id: str,
        role: str,
        module: str,
        arguments: list[str],
        environment: dict[str, str],
        fds: tuple[int, ...] = (),
    ) -> None:
        run_dir = self._config.run_dir
        shared = {"PROMETHEUS_MULTIPROC_DIR": str(self._config.metrics_dir)}
        await self._children.start(
            process_id,
            role,
            module,
            ["--run-dir", str(run_dir), *arguments],
            shared | environment,
            fds,
        )
        log.debug("started %s", process_id)

    def _next_id(self, place: str) -> str:
        restarts = self._restarts.setdefault(place, Restarts(place))
        process_id = restarts.next_id()
        restarts.saw(process_id)
        return process_id

    # Running

    async def _greet(self) -> None:
        workers, frontends = self._children.ids(WORKER), self._children.ids(FRONTEND)
        state = self._published
        await self._tell(
            to_coordinator.LauncherHello(
                PROTOCOL_VERSION,
                workers,
                frontends,
                tuple(self._last_workers.values()),
                tuple(each for each in state.workers if each.worker_id in workers) if state else (),
                tuple(each for each in state.frontends if each.frontend_id in frontends)
                if state
                else (),
            )
        )

    async def _tell(self, message: object) -> None:
        await self._control.send(to_coordinator.CONTROL.encode(message))

    async def _obey(self) -> None:
        """Do what the coordinator orders."""
        while True:
            data: Any = await self._control.recv()
            try:
                order = to_launcher.CONTROL.decode(data)
            except DecodeError as error:
                log.warning("dropped a malformed message: %s", error)
                continue
            match order:
                case to_worker.Introduce():
                    await self._greet()
                case to_launcher.StartWorker() if not self._stops_workers:
                    await self._try_to_start(order)
                case to_launcher.KillWorker(worker_id):
                    await self._kill(worker_id, WORKER)
                case to_launcher.KillFrontend(frontend_id):
                    await self._kill(frontend_id, FRONTEND)

    async def _kill(self, process_id: str, role: str) -> None:
        """One that is not there has ended, and the coordinator has missed the news."""
        if not self._children.kill(process_id):
            await self._tell(to_coordinator.ChildExited(process_id, role, 0))

    async def _try_to_start(self, order: to_launcher.StartWorker) -> None:
        """A worker that cannot be started counts as one that has ended.

        A new coordinator, greeted before an order of the one before it was read, gives it again.
        """
        if order.worker_id in self._children.ids(WORKER):
            return
        self._last_workers[order.worker_id.rpartition(".")[0]] = order.worker_id
        try:
            await self._start_worker(order)
        except OSError as error:
            log.error("%s cannot be started: %s", order.worker_id, error)
            await self._tell(to_coordinator.ChildExited(order.worker_id, WORKER, 1))

    async def _watch_state(self) -> None:
        """Keep what a next coordinator has to be told; say once when the pool is complete, and
        always to systemd, if it listens, how it does."""
        while True:
            with contextlib.suppress(DecodeError):
                state = STATE.decode(await self._state.recv())
                self._published = state
                self._coordinator_due = self._clock.now() + max(
                    self._config.stall_timeout_s, LEAST_SILENCE_S
                )
                if self._frontends_wait and has_all_workers(state) and not self._stop.is_set():
                    await self._start_frontends()
                if not self._announced and is_complete(state, self._config):
                    self._announce(state)
                if (now := time.monotonic()) >= self._status_at:
                    self._status_at = now + STATUS_S
                    self._notifier.status(pool_status(state, self._config))

    async def _watch_coordinator(self) -> None:
        """One that is frozen notices no worker's death, and nobody but the launcher notices it."""
        while True:
            await asyncio.sleep(COORDINATOR_POLL_S)
            if self._clock.now() >= self._coordinator_due:
                self._coordinator_due = math.inf
                if self._children.kill(COORDINATOR):
                    log.error("the coordinator says nothing: it is killed")

    def _announce(self, state: PoolState) -> None:
        self._announced = True
        seconds = time.monotonic() - self._started_at
        log.info(
            "ready after %.1f s: %d frontends, %d workers, serving %s",
            seconds,
            len(state.frontends),
            len(state.workers),
            ", ".join(name for group in self._config.groups for name in group.served_names),
        )
        print(_how_to_call(self._url, self._config), flush=True)
        self._notifier.ready(pool_status(state, self._config))

    async def _feed_watchdog(self) -> None:
        """The launcher lives while its loop turns; whether its children do, it sees itself."""
        while self._notifier.beat_s is not None:
            self._notifier.alive()
            await asyncio.sleep(self._notifier.beat_s / 2)

    async def _on_exit(self, child: Child, exit_code: int) -> None:
        clean_up_after(self._config, Member(child.process_id, child.role, child.process.pid))
        if self._stop.is_set():
            # Frontends may still wait for it.
            await self._tell(to_coordinator.ChildExited(child.process_id, child.role, exit_code))
            if child.role == COORDINATOR:
                await self._start_again(COORDINATOR, COORDINATOR)
            return
        if exit_code == EX_CONFIG and not self._announced:
            # The child has said why; to start it again would say the same again.
            self._give_up()
            return
        await self._tell(to_coordinator.ChildExited(child.process_id, child.role, exit_code))
        if child.role != WORKER and not self._is_replaced(child.process_id):
            await self._restart(child, exit_code)

    async def _restart(self, child: Child, exit_code: int) -> None:
        """Frontends and the coordinator are the launcher's to restart."""
        place = child.process_id.rpartition(".")[0] or child.process_id
        restarts = self._restarts.setdefault(place, Restarts(place))
        delay_s = restarts.failed(f"exit code {exit_code}", time.monotonic(), hopeless=False)
        if restarts.problem and not self._announced:
            log.error("%s cannot be started", place)
            self._give_up()
            return
        log.error("%s ended (%d); restart in %.1f s", child.process_id, exit_code, delay_s)
        if restarts.problem:
            log.error("%s: %s", place, restarts.problem)
        await asyncio.sleep(delay_s)
        restarts.started(time.monotonic())
        await self._start_again(child.role, place)

    async def _start_again(self, role: str, place: str) -> None:
        """Try until it works, or until nobody needs it. Requests that are to be finished may need
        another coordinator, to replace their workers."""
        is_over = self._stop.is_set if role == FRONTEND else lambda: self._stops_workers
        while not is_over():
            try:
                await self._start_place(role, place)
                return
            except OSError as error:
                log.error("%s cannot be started: %s", place, error)
                self._lacks_coordinator |= role == COORDINATOR
            await self._wait_to_try_again()

    async def _wait_to_try_again(self) -> None:
        """Less long from the signal on that ends the pool: requests wait to be finished."""
        if self._stop.is_set():
            await asyncio.sleep(STOPPING_RETRY_S)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), RETRY_S)

    async def _start_place(self, role: str, place: str) -> None:
        if role == FRONTEND:
            await self._start_frontend(place)
        else:
            await self._start_coordinator()
            await self._greet()

    # Rolling restarts

    async def _roll(self) -> None:
        """At each SIGHUP replace what runs then; one that comes meanwhile has its turn after."""
        steps = Steps(
            self._lives,
            lambda: self._published,
            lambda worker_id: self._children.signal(worker_id, signal.SIGTERM),
            self._children.kill,
            lambda frontend_id: self._start_frontend(frontend_id.rpartition(".")[0]),
            lambda frontend_id: self._children.signal(frontend_id, signal.SIGHUP),
        )
        while True:
            await self._roll_wanted.wait()
            self._roll_wanted.clear()
            log.info("rolling restart: workers, then frontends")
            workers = self._children.ids(WORKER)
            running = self._children.ids(FRONTEND)
            frontends = [each for each in running if not self._is_replaced(each)]
            limits = self._config.shutdown_timeout_s, self._config.start_timeout_s
            try:
                await roll(workers, frontends, steps, *limits)
                log.info("rolling restart: done")
            except (RollingFailed, OSError) as error:
                log.error("rolling restart: given up: %s", error)

    def _lives(self, process_id: str) -> bool:
        return process_id in (*self._children.ids(WORKER), *self._children.ids(FRONTEND))

    def _is_replaced(self, process_id: str) -> bool:
        """Whether another frontend has been started in this one's place since."""
        place = process_id.rpartition(".")[0]
        return place != "" and self._restarts[place].last_id != process_id

    # Stopping

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """Neither task may end by an error unseen: without it, nothing would be started again."""
        if not task.cancelled() and task.exception() is not None:
            log.critical("the launcher has failed", exc_info=task.exception())
            self._give_up()

    def _give_up(self) -> None:
        self._exit_status = 1
        self._stop.set()

    def _on_signal(self) -> None:
        if self._stop.is_set():
            log.warning("second signal: all processes are killed")
            self._stops_workers = True
            self._children.kill_all()
        self._stop.set()

    async def _stop_children(self) -> None:
        """Frontends first: they finish what they have; then nobody needs the workers."""
        log.info("stopping")
        self._notifier.stopping("stopping: requests in flight finish")
        self._listener.close()
        finished_by = time.monotonic() + self._config.shutdown_timeout_s
        timeout_s = self._config.shutdown_timeout_s + FRONTEND_STOP_TIMEOUT_S
        await self._children.stop([FRONTEND], timeout_s)
        self._stops_workers = True
        if self._lacks_coordinator and time.monotonic() >= finished_by:
            log.critical("no coordinator could be started within the time to finish requests")
            self._exit_status = 1
        await self._children.stop([WORKER], WORKER_STOP_TIMEOUT_S)
        await self._children.stop([COORDINATOR], COORDINATOR_STOP_TIMEOUT_S)
        log.info("stopped")


def _how_to_call(url: str, config: PoolConfig) -> str:
    model = config.groups[0].served_names[0]
    path = url.removeprefix("unix:")
    where = url if path == url else f"--unix-socket {path} http://localhost"
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    return (
        f"Headrace serves {model} at {url}\n"
        f"curl {where}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"
    )


async def supervise(
    config: PoolConfig,
    listener: socket.socket,
    url: str,
    notifier: Notifier,
    frontends_last: bool = False,
) -> int:
    """Run a pool in this process and its children; returns the exit status."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(config.metrics_dir)
    return await Supervisor(config, listener, url, notifier, frontends_last).run()
