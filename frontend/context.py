"""The dependencies of routes: one frozen object instead of globals."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from headrace.frontend.abortable import Abortable
from headrace.frontend.adapters import AdapterUse, adapters_of
from headrace.frontend.chat.detection.formats import ModelFormats, resolve_formats
from headrace.frontend.chat.reasoning.delimiters import ReasoningDelimiters
from headrace.frontend.chat.tools.available import ToolParser
from headrace.frontend.errors import NotFound, TaskUnsupported
from headrace.frontend.generation.seeds import Seeds
from headrace.frontend.metrics import Metrics
from headrace.frontend.middleware import request_scope
from headrace.frontend.pool.interface import Pool
from headrace.frontend.principal import NOBODY, KeyDirectory, Principal
from headrace.frontend.process.drain import Drain
from headrace.frontend.rate_limits.rate_limits import RateLimits
from headrace.frontend.speech.audio_source import AudioSource
from headrace.frontend.structured.grammar_cache import GrammarCache
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.protocol.pooling import Task

HEADRACE_VERSION = version("headrace")
# Modes in which answers do not have the fingerprint of server and model.
_CHOSEN = ("custom", "none")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model under one of its names.

    root: what it is, without its location on this machine.
    fingerprint: changes when the server or the model does.
    seeds: for requests without a seed.
    parent, adapter: the model that it is a LoRA adapter of, and the adapter's id in workers; None
        and "" for a model itself.
    reasoning: the delimiters of its reasoning; None if that is not separated.
    tool_parser: parses tool calls in answers; None if they are not parsed.
    found: which formats were found by themselves.
    fingerprint_mode, fingerprint_value: see PoolOptions.
    cache_namespace: what is cached for its requests is used for requests with the same one alone.
    """

    name: str
    group: GroupConfig
    tokenizer: ModelTokenizer
    root: str
    fingerprint: str
    seeds: Seeds
    reasoning: ReasoningDelimiters | None = None
    tool_parser: ToolParser | None = None
    found: str = ""
    parent: str | None = None
    adapter: str = ""
    fingerprint_mode: str = "full"
    fingerprint_value: str | None = None
    cache_namespace: str = ""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What it does."""
        return self.tokenizer.info.tasks

    @property
    def shown_fingerprint(self) -> str | None:
        """The fingerprint in answers: as the operator wants it, or None."""
        return self.fingerprint_value if self.fingerprint_mode in _CHOSEN else self.fingerprint

    def salted(self, salt: str | None) -> str:
        """Return the salt of cached blocks for a request's own, within its namespace."""
        return self.cache_namespace + (salt or "")


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of the application that routes use.

    started_at: Unix time in seconds, shown as the models' creation time.
    grammars: of structured outputs. drain: whether the process is ending.
    abortable: work that operators may abort. adapter_use: which adapters requests use.
    kept: models, by name, that keep their meaning while this context is used.
    rate_limits: of keys. keys: those that are valid; None on a server without keys.
    acting_for: whose work this context is for; None: the current HTTP request's.
    recordings: decodes them; None: this frontend has no model that transcribes.
    """

    config: PoolConfig
    models: Mapping[str, ServedModel]
    pool: Pool
    metrics: Metrics
    started_at: int
    grammars: GrammarCache
    drain: Drain = field(default_factory=Drain)
    abortable: Abortable = field(default_factory=Abortable)
    adapter_use: AdapterUse = field(default_factory=AdapterUse)
    kept: Mapping[str, ServedModel] = field(default_factory=dict)
    rate_limits: RateLimits = field(default_factory=lambda: RateLimits.in_folder(None))
    keys: KeyDirectory | None = None
    acting_for: Principal | None = None
    recordings: AudioSource | None = None

    @property
    def principal(self) -> Principal:
        """Whose work this is."""
        if self.acting_for is not None:
            return self.acting_for
        scope = request_scope.current_or_none()
        return NOBODY if scope is None else scope.principal

    def model(self, name: str | None, *tasks: Task) -> ServedModel:
        """Return the model that a request names; without a name, the first that it may use.

        An adapter is in use until the HTTP request ends, or the work that has called `keep`.

        tasks: of which it must do one; none: it may do anything.

        Raises NotFound, for a model that the request's key may not use as for one that is missing;
        TaskUnsupported for one that does something else.
        """
        principal = self.principal
        served = self._first(principal, tasks) if name is None else self._named(name, principal)
        if tasks and not set(tasks) & set(served.tasks):
            raise TaskUnsupported(served.name, served.tasks, tasks[0])
        if principal.key is not None and not self.config.share_prefix_cache:
            served = replace(served, cache_namespace=f"{principal.tenant}\0")
        scope = request_scope.current_or_none()
        if scope is not None:
            scope.group = served.group.name
            if served.adapter:
                scope.cleanups.append(self.adapter_use.hold(served.adapter))
        return served

    def visible_models(self) -> list[ServedModel]:
        """Return the models and adapters that the request's key may use."""
        may_use = self.principal.may_use
        return [each for each in (*self.models.values(), *self.adapters()) if may_use(each.name)]

    def _first(self, principal: Principal, tasks: Sequence[Task]) -> ServedModel:
        """Return the first model that may be used, if possible one that does one of the tasks."""
        usable = [each for each in self.models.values() if principal.may_use(each.name)]
        fit = [each for each in usable if not tasks or set(tasks) & set(each.tasks)]
        for served in fit or usable:
            return served
        raise NotFound("model: say which.", "model")

    def _named(self, name: str, principal: Principal) -> ServedModel:
        served = self.kept.get(name) or self.models.get(name)
        if served is None:
            served = next((each for each in self.adapters() if each.name == name), None)
        if served is None or not principal.may_use(name):
            raise NotFound(f"The model {name[:100]!r} does not exist.", "model")
        return served

    def adapters(self) -> Iterator[ServedModel]:
        """Yield the LoRA adapters, as models like their parents under other names."""
        for group, adapter in adapters_of(self.pool.state):
            parent = self._first_of(group)
            if parent is not None:
                yield replace(
                    parent,
                    name=adapter.name,
                    root=adapter.root,
                    fingerprint=f"{parent.fingerprint}-{adapter.adapter_id[:8]}",
                    parent=parent.name,
                    adapter=adapter.adapter_id,
                )

    def keep(self, model: ServedModel) -> tuple["Context", list[Callable[[], None]]]:
        """Return a context in which the model's name keeps its meaning, and functions to call when
        the work has ended. For work that outlives its HTTP request."""
        if not model.adapter:
            return self, []
        kept = replace(self, kept={**self.kept, model.name: model})
        return kept, [self.adapter_use.hold(model.adapter)]

    def _first_of(self, group: str) -> ServedModel | None:
        return next((each for each in self.models.values() if each.group.name == group), None)


def served_models(
    config: PoolConfig,
    tokenizers: Mapping[str, ModelTokenizer],
    formats: Mapping[str, ModelFormats] | None = None,
) -> dict[str, ServedModel]:
    """Return the models by all their names.

    tokenizers, formats: by the groups' names; formats are resolved if there are none.
    """
    formats = resolve_formats(config, tokenizers) if formats is None else formats
    models: dict[str, ServedModel] = {}
    for group in config.groups:
        seeds = Seeds(group.engine.seed)
        tokenizer = tokenizers[group.name]
        found = formats[group.name]
        for name in group.served_names:
            models[name] = ServedModel(
                name=name,
                group=group,
                tokenizer=tokenizer,
                root=_root(group),
                fingerprint=_fingerprint(group),
                seeds=seeds,
                reasoning=found.reasoning,
                tool_parser=found.tool_parser,
                found=found.description,
                fingerprint_mode=config.fingerprint_mode,
                fingerprint_value=config.fingerprint_value,
            )
    return models


def _root(group: GroupConfig) -> str:
    """Return the model as the operator gave it if it is a hub id ("owner/name"); else its name."""
    parts = group.model.split("/")
    is_hub_id = len(parts) == 2 and all(parts) and parts[0] not in (".", "..", "~")
    if is_hub_id and not group.model.endswith(".gguf") and not Path(group.model).exists():
        return group.model
    return group.served_names[0]


def _fingerprint(group: GroupConfig) -> str:
    described = f"{group.model}\n{group.engine.model_dump_json()}"
    digest = hashlib.sha256(described.encode()).hexdigest()[:8]
    return f"headrace-{HEADRACE_VERSION}-{digest}"
