"""Carry admin calls through the coordinator: from frontends to their answerers, and answers back.

The router decides; what it and the adapters order is done here, in its order.
"""

from collections.abc import Callable, Iterable

from headrace.coordinator.actions import Actions, Answer
from headrace.coordinator.adapter_manager import AdapterManager
from headrace.coordinator.autoscaling.autoscaler import Autoscaler
from headrace.coordinator.call_router import OWN, CallRouter, report_activity
from headrace.coordinator.held_calls import HeldCalls
from headrace.coordinator.registry import Registry
from headrace.coordinator.state_publisher import StatePublisher
from headrace.coordinator.worker_calls import WorkerCalls
from headrace.protocol.calls import GetActivity, LoadAdapter, UnloadAdapter
from headrace.protocol.to_coordinator import CallResult, PoolCall
from headrace.protocol.to_frontend import FrontendCall, PoolResult


class AdminCalls:
    """The calls in progress. No clock of its own. send: sends a message to a frontend."""

    def __init__(
        self,
        router: CallRouter,
        registry: Registry,
        adapters: AdapterManager,
        autoscaler: Autoscaler,
        publisher: StatePublisher,
        worker_calls: WorkerCalls,
        send: Callable[[str, PoolResult | FrontendCall], None],
    ) -> None:
        self._router, self._registry = router, registry
        self._adapters, self._autoscaler = adapters, autoscaler
        self._publisher = publisher
        self._worker_calls, self._send = worker_calls, send
        self._early: list[PoolCall] = []
        self._held = HeldCalls()

    def add_handlers(self, router: CallRouter) -> None:
        """Answer the calls that need several parts of the coordinator."""
        router.add_handler(
            GetActivity,
            lambda call, message, now: report_activity(
                message, self._registry.workers(), self._registry.replica_slots.all()
            ),
        )
        router.add_handler(LoadAdapter, self._on_load_adapter)
        router.add_handler(UnloadAdapter, self._adapters.on_unload)

    def on_call(self, message: PoolCall, now: float) -> None:
        """Route a call, or keep it until it is known which processes there are."""
        if not self._registry.launcher_known:
            self._early.append(message)
            return
        workers = self._registry.workers()
        frontends = filter(self._registry.knows, self._registry.frontend_ids())
        slots = self._registry.replica_slots.all()
        self._perform(self._router.on_call(message, now, workers, frontends, slots), now)

    def on_launcher(self, now: float) -> None:
        """Continue what a previous coordinator has begun, and route what came early."""
        self._perform(self._adapters.resume(), now)
        early, self._early = self._early, []
        for call in early:
            self.on_call(call, now)

    def on_result(self, message: CallResult, now: float) -> None:
        """Record the answer of a worker or a frontend."""
        self.answer(self._router.on_result(message, now), now)

    def on_exit(self, process_id: str, now: float, has_drained: bool) -> None:
        """Record that a worker or a frontend has ended; see CallRouter.on_exit."""
        self.answer(self._router.on_exit(process_id, now, has_drained), now)

    def tick(self, now: float) -> None:
        """End what has taken too long, and try again what waits for a worker."""
        self.answer(self._router.tick(now), now)
        self._perform(self._adapters.tick(now), now)
        again, late = self._held.retry(now)
        for call in again:
            self.on_call(call, now)
        self.answer(late, now)

    def answer(self, answers: Iterable[Answer], now: float) -> None:
        """Send answers to the frontends that wait for them."""
        for frontend_id, result in answers:
            if frontend_id == OWN:
                self._perform(self._adapters.on_result(result), now)
            else:
                self._send(frontend_id, result)

    def _perform(self, actions: Actions, now: float) -> None:
        if actions.publish:
            self._publisher.publish(now)
        self._worker_calls.send(actions.to_workers)
        for frontend_id, frontend_call in actions.to_frontends:
            self._send(frontend_id, frontend_call)
        for call in actions.calls:
            self.on_call(call, now)
        self.answer(actions.answers, now)

    def _on_load_adapter(self, call: LoadAdapter, message: PoolCall, now: float) -> Actions:
        """Load an adapter. Only a worker can check it: one is started if there is none."""
        group, workers = message.target.group, self._registry.workers()
        if self._autoscaler.needs_first_worker(group, workers):
            self._autoscaler.on_wake_request(group, now)
            self._held.hold(message, now)
            return Actions()
        self._held.release(message)
        return self._adapters.on_load(call, message, now)
