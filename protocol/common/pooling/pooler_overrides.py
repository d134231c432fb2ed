"""Apply to how a model pools what the operator says about it."""

from dataclasses import replace

from headrace.protocol.common.pooling.json_files import PoolingFilesError
from headrace.protocol.common.pooling.model_setup import PoolingSetup
from headrace.protocol.common.pooling.pooler_config import PoolerConfig

_MODES = {"CLS": "cls", "LAST": "lasttoken", "MEAN": "mean"}
ANY_LENGTH = 100_000_000
_FLAG = "--pooler-config"


def with_pooler_config(setup: PoolingSetup, config: PoolerConfig | None) -> PoolingSetup:
    """Return how a model pools if its operator says this.

    Raises PoolingFilesError, naming the key, if it does not fit the model.
    """
    if config is None:
        return setup
    _check(setup, config)
    modules = setup.modules
    if config.seq_pooling_type is not None:
        modes = (_MODES[config.seq_pooling_type],)
        routes = {name: replace(each, modes=modes) for name, each in modules.routes.items()}
        modules = replace(modules, modes=modes, routes=routes)
    return replace(
        setup,
        modules=modules,
        logit_mean=config.logit_mean or 0.0,
        logit_sigma=config.logit_sigma or 1.0,
        step_tag_id=config.step_tag_id,
    )


def longest_embedded(config: PoolerConfig | None, max_model_len: int) -> int:
    """Return the tokens of a text that is embedded, at most.

    max_model_len: tokens that the model takes at once. Raises PoolingFilesError if the operator
    allows more without pieces.
    """
    if config is None or (config.max_embed_len is None and not config.enable_chunked_processing):
        return max_model_len
    if config.enable_chunked_processing:
        return config.max_embed_len or ANY_LENGTH
    most = config.max_embed_len or max_model_len
    if most > max_model_len:
        raise PoolingFilesError(
            f"{_FLAG}: max_embed_len {most} is more than the {max_model_len} tokens of the model: "
            "set enable_chunked_processing"
        )
    return most


def _check(setup: PoolingSetup, config: PoolerConfig) -> None:
    tasks, does = setup.tasks, ", ".join(setup.tasks)
    if config.task is not None and config.task not in tasks:
        raise PoolingFilesError(f"{_FLAG}: task: what the model does is {does}")
    needs: tuple[tuple[str, object, tuple[str, ...]], ...] = (
        ("seq_pooling_type", config.seq_pooling_type, ("embed",)),
        ("enable_chunked_processing", config.enable_chunked_processing, ("embed",)),
        ("max_embed_len", config.max_embed_len, ("embed",)),
        ("dimensions", config.dimensions, ("embed", "token_embed")),
        ("step_tag_id", config.step_tag_id, ("token_embed", "token_classify")),
        ("logit_mean", config.logit_mean, ("classify", "token_classify")),
        ("logit_sigma", config.logit_sigma, ("classify", "token_classify")),
    )
    for name, value, wanted in needs:
        if value not in (None, False) and not {*wanted} & {*tasks}:
            raise PoolingFilesError(f"{_FLAG}: {name}: the model does {does} alone")
    if config.dimensions is not None:
        _check_dimensions(setup, config.dimensions)


def _check_dimensions(setup: PoolingSetup, wanted: int) -> None:
    if setup.dimensions is None:
        raise PoolingFilesError(f"{_FLAG}: dimensions: this model's embeddings cannot be cut")
    if wanted > setup.size or (setup.dimensions and wanted not in setup.dimensions):
        known = ", ".join(map(str, setup.dimensions)) or f"1 to {setup.size}"
        raise PoolingFilesError(f"{_FLAG}: dimensions: must be one of {known}")
