"""Reports when a pool is ready: in the log, on standard output and to systemd, which also gets the
pool's status all the time."""

import json
import logging
import shlex
import time

from headrace.protocol.common.pool_status import is_complete, pool_status
from headrace.protocol.common.sd_notify import Notifier
from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.protocol.logs.set_up import writes_json
from headrace.protocol.state import PoolState
from headrace.protocol.text import TextInfo

log = logging.getLogger("headrace.launcher")

# How often systemd gets the pool's status.
STATUS_S = 1.0


class Readiness:
    """Whether the pool has been ready. url: where it serves."""

    def __init__(self, config: PoolConfig, url: str, notifier: Notifier) -> None:
        self._config, self._url, self._notifier = config, url, notifier
        self._started_at = time.monotonic()
        self._next_status_at = 0.0
        self.was_announced = False

    def on_state(self, state: PoolState) -> None:
        """Report a pool state that the coordinator has published."""
        if not self.was_announced and is_complete(state, self._config):
            self._announce(state)
        if (now := time.monotonic()) >= self._next_status_at:
            self._next_status_at = now + STATUS_S
            self._notifier.status(pool_status(state, self._config))

    def _announce(self, state: PoolState) -> None:
        self.was_announced = True
        log.info(
            "ready after %.1f s: %d frontends, %d workers, serving %s",
            time.monotonic() - self._started_at,
            len(state.frontends),
            len(state.workers),
            ", ".join(name for group in self._config.groups for name in group.served_names),
        )
        if writes_json():
            log.info("%s", _served_at(self._url, self._config))
        else:
            print(_example_call(self._url, self._config), flush=True)
        self._notifier.ready(pool_status(state, self._config))


def _served_at(url: str, config: PoolConfig) -> str:
    return f"Headrace serves {config.groups[0].served_names[0]} at {url}"


def _transcribes(group: GroupConfig) -> bool:
    return TextInfo.load(group.text_path).speech is not None


def _example_call(url: str, config: PoolConfig) -> str:
    model = config.groups[0].served_names[0]
    path = url.removeprefix("unix:")
    words = [url] if path == url else ["--unix-socket", path, f"{config.scheme}://localhost"]
    # The shell puts in the key: it is not known here.
    key = ' -H "Authorization: Bearer $HEADRACE_API_KEY"' if config.needs_key else ""
    if _transcribes(config.groups[0]):
        words[-1] += "/v1/audio/transcriptions"
        words += ["-F", f"model={model}", "-F", "file=@speech.wav"]
        return f"{_served_at(url, config)}\ncurl {shlex.join(words)}{key}"
    if config.groups[0].engine.runner == "pooling":
        words[-1] += "/v1/embeddings"
        asked: dict[str, object] = {"model": model, "input": "Hello!"}
    else:
        words[-1] += "/v1/chat/completions"
        asked = {"model": model, "messages": [{"role": "user", "content": "Hello!"}]}
    body = json.dumps(asked, ensure_ascii=False)
    words += ["-H", "Content-Type: application/json", "-d", body]
    return f"{_served_at(url, config)}\ncurl {shlex.join(words)}{key}"
