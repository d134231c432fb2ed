"""Begin to transcribe the recording of a request, as one piece of work of its client."""

import logging
import time
from pathlib import Path

from headrace.frontend.context import Context, ServedModel
from headrace.frontend.errors import InternalError
from headrace.frontend.generation.ownership import (
    new_request_id,
    own,
    owner_of,
    priority_of,
    raise_interruption,
)
from headrace.frontend.generation.request_log import MAX_PARAMS_CHARS
from headrace.frontend.generation.token_ledger import reserve_tokens
from headrace.frontend.middleware import request_scope
from headrace.frontend.middleware.deadline import current_deadline
from headrace.frontend.rate_limits.rate_limits import Demand
from headrace.frontend.schemas.speech.forms import SpeechForm
from headrace.frontend.speech.plan import ENGLISH, SpeechPlan, make_plan
from headrace.frontend.speech.recording import Recording
from headrace.frontend.speech.worker_requests import Owner, WorkerRequests

log = logging.getLogger("headrace.frontend.requests")


class Transcription:
    """A recording on its way. started: when its request arrived, by `time.monotonic`."""

    def __init__(
        self, context: Context, plan: SpeechPlan, requests: WorkerRequests, recording: Recording
    ) -> None:
        self.context, self.plan, self.recording = context, plan, recording
        self.requests = requests
        scope = request_scope.current_or_none()
        self.started = time.monotonic() if scope is None else scope.started

    def note_end(self, duration_s: float, text: str) -> None:
        """Count the recording, whose text is complete, and log it if that is enabled."""
        config = self.context.config
        name = self.plan.model.group.served_names[0]
        taken_s = time.monotonic() - self.started
        self.context.metrics.audio.count_recording(name, duration_s, taken_s)
        if config.enable_log_requests and config.enable_log_outputs:
            log.info(
                "answered %s: %.2f s of audio: %r",
                request_scope.current_request_id(),
                duration_s,
                text[: config.max_log_len],
            )


async def start_transcription(
    context: Context, model: ServedModel, form: SpeechForm, file: Path
) -> Transcription:
    """Begin the work on a request's recording; the HTTP request owns it.

    Raises BadRequest if the model cannot do what is asked; RateLimited if the client's key has
    reached a limit.
    """
    plan = await make_plan(model, form)
    raise_interruption()
    if context.recordings is None:
        raise InternalError("This server decodes no recordings.")
    tenant, user = owner_of(context.principal, form.user)
    # Recordings of a client that names no users take turns: a short one is not behind all the
    # windows of long ones.
    owner = Owner(tenant, user or new_request_id(), priority_of(form.priority))
    requests = WorkerRequests(context, plan, owner)
    # Before anything is decoded: what a limit refuses must not run.
    reservation = reserve_tokens(context, _demand(plan), lambda at_end: used(at_end))
    recording = Recording(
        context.recordings,
        file,
        plan,
        requests,
        context.config,
        current_deadline(context.config.request_timeout_s),
    )

    def used(at_end: bool) -> int | None:
        if not (at_end or recording.has_ended):
            return None
        return requests.used.prompt + requests.used.output

    own(context, model, recording, reservation)
    if context.config.enable_log_requests:
        log.info(
            "received %s: prompt: %r, %s",
            request_scope.current_request_id(),
            form.prompt[: context.config.max_log_len],
            repr(plan.sampling)[:MAX_PARAMS_CHARS],
        )
    return Transcription(context, plan, requests, recording)


def _demand(plan: SpeechPlan) -> Demand:
    """Return the tokens of a recording's first window; nobody knows yet how many there are, and
    those of the others are counted at the end."""
    prompt = len(plan.prompt(plan.language or ENGLISH))
    room = plan.info.positions - prompt
    return Demand(
        prompt,
        choices=1,
        output_tokens=min(room, plan.max_tokens or room),
        is_bounded=False,
        field="file",
    )
