"""Assemble an engine from a runner and the limits of its steps."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from headrace.workers.engine.block_pool import BlockPool
from headrace.workers.engine.drafter import Drafter
from headrace.workers.engine.engine import Engine
from headrace.workers.engine.output_processor import OutputProcessor
from headrace.workers.engine.runner import Runner
from headrace.workers.engine.scheduler import Scheduler
from headrace.workers.engine.state_cache import StateCache
from headrace.workers.engine.step_pipeline import StepPipeline
from headrace.workers.engine.window_slots import WindowSlots
from headrace.workers.grammars.gate import GrammarGate
from headrace.workers.grammars.grammar_manager import GrammarManager
from headrace.workers.sequence.check_window import WindowChecks
from headrace.workers.sequence.engine_adapters import EngineAdapters
from headrace.workers.sequence.token_texts import TokenTexts

if TYPE_CHECKING:  # pydantic is not needed to step
    from headrace.protocol.config import SpeculativeConfig


def assemble_engine(
    runner: Runner,
    *,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    enable_prefix_caching: bool = True,
    speculative_config: "SpeculativeConfig | None" = None,
    grammars: GrammarManager | None = None,
    adapters: EngineAdapters | None = None,
    max_loras: int = 1,
    texts: TokenTexts | None = None,
    slots: WindowSlots | None = None,
    windows: WindowChecks | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Engine:
    """Make the parts of an engine and join them.

    grammars: None: requests with a grammar are rejected.
    adapters: None: requests with an adapter are rejected.
    max_loras: the most different adapters in one step.
    speculative_config: not used where the runner keeps states: these cannot take a draft back.
    texts: of the tokens, where `grammars` does not read them; None: thinking budgets are rejected.
    slots, windows: of a runner whose model transcribes; None: it only reads.
    clock: returns seconds; measures steps, whose token budget depends on it.
    """
    max_len = min(runner.max_model_len, runner.num_blocks * runner.block_size)
    states = None
    if runner.num_state_slots:
        states = StateCache(
            runner.num_state_slots, runner.block_size, makes_snapshots=enable_prefix_caching
        )
    drafter = None
    if speculative_config is not None and states is None:
        drafter = Drafter(speculative_config, max_len)
    pool = BlockPool(runner.num_blocks, runner.block_size)
    scheduler = Scheduler(
        pool,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        enable_prefix_caching=enable_prefix_caching,
        drafter=drafter,
        max_loras=None if adapters is None else max_loras,
        slots=slots,
        states=states,
        switch_length=runner.switch_length,
    )
    if adapters is not None:
        runner.use_adapters(adapters)
    overlaps = runner.overlaps and drafter is None  # drafts need the tokens before them
    return Engine(
        scheduler,
        StepPipeline(runner, pool, max_len=max_len, overlaps=overlaps, clock=clock),
        OutputProcessor(scheduler, drafter, max_len),
        max_len=max_len,
        drafter=drafter,
        grammar_gate=None if grammars is None else GrammarGate(grammars),
        adapters=adapters,
        texts=texts,
        windows=windows,
    )
