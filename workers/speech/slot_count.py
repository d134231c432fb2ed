"""Choose how many windows' vectors are kept at once."""

import torch

from headrace.protocol.common.host.limits import available_memory
from headrace.protocol.config import EngineConfig

# Share of the memory that is available, once the model is loaded, for the slots of all workers.
_SHARE = 0.25


def choose_num_slots(
    config: EngineConfig, slot_bytes: int, device: torch.device, workers_on_host: int
) -> int:
    """Return the number of slots: one for each request that may run, if memory allows.

    slot_bytes: of one slot.
    """
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = available_memory().amount // max(1, workers_on_host)
    return max(1, min(config.max_num_seqs, int(free * _SHARE) // max(1, slot_bytes)))
