"""Choose how many windows' vectors are kept at once."""

import torch

from headrace.protocol.common.host.limits import available_memory
from headrace.protocol.config import EngineConfig

# Share of the memory that is available, once the model is loaded, for the slots of all workers.
_SHARE = 0.25
# More at once are not faster on CPUs: 1.00 times as fast with 64 as with 16 (Whisper tiny, 30 min),
# which were 1.14 times as fast as 8.
_MOST_ON_CPU = 16


def choose_num_slots(
    config: EngineConfig, slot_bytes: int, device: torch.device, workers_on_host: int
) -> int:
    """Return the number of slots: one for each request that may run, if memory allows, and on CPUs
    no more than help.

    slot_bytes: of one slot.
    """
    wanted = config.max_num_seqs
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = available_memory().amount // max(1, workers_on_host)
        wanted = min(wanted, _MOST_ON_CPU)
    return max(1, min(wanted, int(free * _SHARE) // max(1, slot_bytes)))
