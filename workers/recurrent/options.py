"""Say which of a group's options models with recurrent layers do not have."""

from headrace.protocol.config import EngineConfig
from headrace.workers.errors import ModelUnsupported


def check_options(config: EngineConfig) -> None:
    """Check the options; raises ModelUnsupported if one does not go with recurrent layers."""
    if config.enable_lora:
        raise ModelUnsupported("enable_lora: models with recurrent layers take no adapters")
