"""Give what runs a model that transcribes caches as large as memory and the configuration allow."""

from collections.abc import Sequence

import torch

from headrace.protocol.config import EngineConfig
from headrace.workers.attention.backend import KVLayerShape
from headrace.workers.attention.cache_dtype import CacheDtype, token_bytes
from headrace.workers.speech.backing import SpeechBacking, SpeechFacts
from headrace.workers.speech.runner import SpeechRunner
from headrace.workers.speech.slot_count import choose_num_slots
from headrace.workers.speech.source_slots import SourceSlots
from headrace.workers.torch_runner.cache_size import choose_num_blocks


def make_speech_runner(
    backing: SpeechBacking,
    facts: SpeechFacts,
    config: EngineConfig,
    layers: Sequence[KVLayerShape],
    source_layers: Sequence[KVLayerShape],
    device: torch.device,
    max_model_len: int,
    workers_on_host: int,
    cache_dtype: CacheDtype,
) -> SpeechRunner:
    """Return a runner.

    layers, source_layers: of the decoder's two caches.
    """
    slot_bytes = token_bytes(source_layers, cache_dtype) * facts.positions
    num_slots = choose_num_slots(config, slot_bytes, device, workers_on_host)
    num_blocks = choose_num_blocks(
        config, layers, cache_dtype, device, max_model_len, workers_on_host
    )
    return SpeechRunner(
        backing,
        facts,
        max_model_len=max_model_len,
        num_blocks=num_blocks,
        block_size=config.block_size,
        slots=SourceSlots(num_slots),
    )
