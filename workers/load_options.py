"""What is worked out from a group's options before its model runs."""

from headrace.protocol.common.host.limits import available_cpus
from headrace.protocol.config import EngineConfig
from headrace.workers.errors import ModelUnsupported


def threads_of(config: EngineConfig, workers_on_host: int) -> int:
    """Return the number of threads of each worker."""
    return config.threads or max(1, available_cpus().amount // max(1, workers_on_host))


def choose_length(config: EngineConfig, longest: int) -> int:
    """Return the tokens of prompt and output together; raises ModelUnsupported if the model's own
    limit is lower than the configured one."""
    if config.max_model_len is not None and config.max_model_len > longest:
        raise ModelUnsupported(
            f"max_model_len is {config.max_model_len}, but the model's limit is {longest}"
        )
    return config.max_model_len or longest
