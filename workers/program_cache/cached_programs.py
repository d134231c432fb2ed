"""Load a model's program from the cache, and keep one there."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from headrace.protocol.config import EngineConfig
from headrace.workers.native.plan import ProgramPlan
from headrace.workers.program_cache.key import program_key
from headrace.workers.program_cache.program_file import (
    DamagedProgram,
    NotCacheable,
    read_program,
    write_program,
)
from headrace.workers.program_cache.store import ProgramStore
from headrace.workers.program_cache.weight_files import WeightFiles
from headrace.workers.start_phases import StartPhases

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

_log = logging.getLogger("headrace.worker")

FOLDER = "programs"  # in the cache folder


@dataclass(frozen=True, slots=True, eq=False)
class CachedProgram:
    """A program from the cache, with the facts about its model that a start needs.

    model: the name of its class. vocab_rows: token ids are below it. longest: tokens of prompt and
    output together that the model can have. facts: these, and what else was kept with it.
    """

    plan: ProgramPlan
    model: str
    vocab_rows: int
    longest: int
    facts: Mapping[str, Any]


class ProgramCache:
    """The place of one model's program in the cache, under one group's options.

    folder: the cache folder; None: nothing is cached. log: receives lines for the operator.
    """

    def __init__(
        self,
        folder: Path | None,
        model_path: Path,
        config: EngineConfig,
        log: Callable[[str], None] = _log.info,
    ) -> None:
        self._store = None if folder is None else ProgramStore(folder / FOLDER)
        self._model_path, self._config, self._log = model_path, config, log
        self._key = self._find_key()

    @property
    def is_current(self) -> bool:
        """Whether the model's files are still those that they were when this object was made."""
        return self._find_key() == self._key

    @property
    def has_program(self) -> bool:
        """Whether there is a file, which may be damaged."""
        return self._store is not None and self._key is not None and self._store.has(self._key)

    def load(self) -> CachedProgram | None:
        """Return the program; None, after a line in the log if one is damaged, if there is none."""
        if self._store is None or self._key is None:
            return None
        try:
            data = self._store.load(self._key)
            if data is None:
                return None
            files = WeightFiles(self._model_path)
            plan, facts = read_program(data, files)
            for line in files.notes(plan.dtype):
                self._log(line)
            return CachedProgram(plan, facts["model"], facts["vocab_rows"], facts["longest"], facts)
        except (OSError, SafetensorError, DamagedProgram, KeyError) as error:
            self._log(f"the cached program is not used, and made anew: {error}")
            return None

    def save(
        self,
        plan: ProgramPlan,
        model: "PreTrainedModel",
        vocab_rows: int,
        longest: int,
        more: Mapping[str, Any] | None = None,
        convolutions: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Keep a program that has passed its self-check; a line in the log says if that fails.

        more: values of JSON to keep beside it. convolutions: see `write_program`.
        """
        if self._store is None or self._key is None or not self.is_current:
            return
        facts = {"model": type(model).__name__, "vocab_rows": vocab_rows, "longest": longest}
        facts |= more or {}
        parameters = dict(model.named_parameters(remove_duplicate=False))
        try:
            files = WeightFiles(self._model_path)
            self._store.save(self._key, write_program(plan, parameters, files, facts, convolutions))
        except (NotCacheable, SafetensorError, OSError) as error:
            self._log(f"the program is not cached, the next start compiles it again: {error}")
        else:
            self._log("the program is cached for the next start")

    def _find_key(self) -> str | None:
        if self._store is None:
            return None
        try:
            return program_key(self._model_path, self._config)
        except OSError:  # loading the model says more
            return None


def find_program(
    cache: ProgramCache, config: EngineConfig, phases: StartPhases
) -> CachedProgram | None:
    """Return the program in the cache; None if there is none, or a GPU runs the model."""
    if config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available()):
        return None
    with phases.phase("compile"):
        return cache.load()
