"""The times of one choice, which answers report if the operator wants so."""

import time

from headrace.protocol.to_frontend import Admission


class RequestTimes:
    """Notes when outputs come."""

    def __init__(self) -> None:
        self._admission: Admission | None = None
        self._first_s: float | None = None
        self._last_s = 0.0
        self._tokens = 0

    def output(self, tokens: int, admission: Admission | None) -> None:
        """Note an output that has just come."""
        if admission is not None:
            self._admission = admission
        if tokens == 0:
            return
        self._last_s = time.monotonic()
        self._tokens += tokens
        if self._first_s is None:
            self._first_s = self._last_s

    def report(self) -> dict[str, float | None]:
        """Return the times in milliseconds; None where there is nothing to tell.

        The time to the first token begins when the request is scheduled, and so does the time
        that tokens_per_second refers to; generation_time_ms is from the first token to the last.
        """
        admission, first_s = self._admission, self._first_s
        prefill_ms = None if admission is None else admission.prefill_s * 1000
        generation_ms = None if first_s is None else (self._last_s - first_s) * 1000
        whole_ms = (prefill_ms or 0.0) + (generation_ms or 0.0)
        intervals = self._tokens - 1
        return {
            "time_to_first_token_ms": prefill_ms,
            "generation_time_ms": generation_ms,
            "queue_time_ms": None if admission is None else admission.queue_s * 1000,
            "mean_itl_ms": generation_ms / intervals if generation_ms and intervals else None,
            "tokens_per_second": self._tokens / whole_ms * 1000 if whole_ms else None,
        }
