"""What the routes are given: one frozen object instead of globals."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from frontend.abortable import Abortable
from frontend.chat.reasoning.marks import ReasoningMarks
from frontend.chat.tools.available import ToolParser, find_parser
from frontend.drain import Drain
from frontend.errors import NotFound
from frontend.generation.seeds import Seeds
from frontend.metrics import Metrics
from frontend.pool.interface import Pool
from frontend.structured.grammars import Grammars
from frontend.text.model import TextModel
from protocol.config import GroupConfig, PoolConfig

HEADRACE_VERSION = version("headrace")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model under the name that answers call it.

    root: what it is, without telling where it lies on this machine.
    fingerprint: changes when the server or the model does.
    seeds: for requests that bring none.
    reasoning: how its reasoning is marked; None if it is not told from the rest.
    tool_parser: reads calls of tools in answers; None if they are not told from text.
    """

    name: str
    group: GroupConfig
    text: TextModel
    root: str
    fingerprint: str
    seeds: Seeds
    reasoning: ReasoningMarks | None = None
    tool_parser: ToolParser | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """started_at: seconds since 1970, given as the time of the models' creation.
    grammars: of structured outputs.
    drain: whether the process is about to end. abortable: what an operator may end.
    """

    config: PoolConfig
    models: Mapping[str, ServedModel]
    pool: Pool
    metrics: Metrics
    started_at: int
    grammars: Grammars
    drain: Drain = field(default_factory=Drain)
    abortable: Abortable = field(default_factory=Abortable)

    def model(self, name: str | None) -> ServedModel:
        """The model that a request names; without a name, the first. NotFound if there is none."""
        if name is None:
            return next(iter(self.models.values()))
        served = self.models.get(name)
        if served is None:
            raise NotFound(f"The model {name[:100]!r} does not exist.", "model")
        return served


def served_models(config: PoolConfig, texts: Mapping[str, TextModel]) -> dict[str, ServedModel]:
    """The models by every name that they are served under. texts: by the groups' names."""
    models: dict[str, ServedModel] = {}
    for group in config.groups:
        seeds = Seeds(group.engine.seed)
        text = texts[group.name]
        parser = group.reasoning_parser
        reasoning = None if parser is None else ReasoningMarks.of(parser, text)
        tool_parser = None
        serving = group.serving
        if serving.enable_auto_tool_choice and serving.tool_call_parser is not None:
            tool_parser = find_parser(serving.tool_call_parser, serving.tool_parser_plugin)
        for name in group.served_names:
            models[name] = ServedModel(
                name=name,
                group=group,
                text=text,
                root=_root(group),
                fingerprint=_fingerprint(group),
                seeds=seeds,
                reasoning=reasoning,
                tool_parser=tool_parser,
            )
    return models


def _root(group: GroupConfig) -> str:
    """The model as the operator gave it, if that is a hub id ("owner/name"); else a served name."""
    parts = group.model.split("/")
    is_hub_id = len(parts) == 2 and all(parts) and parts[0] not in (".", "..", "~")
    if is_hub_id and not group.model.endswith(".gguf") and not Path(group.model).exists():
        return group.model
    return group.served_names[0]


def _fingerprint(group: GroupConfig) -> str:
    described = f"{group.model}\n{group.engine.model_dump_json()}"
    digest = hashlib.sha256(described.encode()).hexdigest()[:8]
    return f"headrace-{HEADRACE_VERSION}-{digest}"
