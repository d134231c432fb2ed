"""Writes the folder that frontends read: tokenizer.json and text.json (see headrace.protocol.text).

What only transformers can tell (headrace.workers.prepare.prepare has asked it, once) is in a facts
folder: tokenizer.json as transformers would use it, and facts.json with the completed configuration
and the special tokens. Everything else is in plain files of the model.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from headrace.launcher.models.chat_templates import model_templates, override_template
from headrace.launcher.models.generation_config import generation_defaults, output_ceiling
from headrace.launcher.models.model_cache import file_digest, joint_digest
from headrace.launcher.models.model_folder import ModelError, read_json_object
from headrace.protocol.common.context_length import context_length
from headrace.protocol.common.pooling.json_files import PoolingFilesError, read_object
from headrace.protocol.common.pooling.model_setup import PoolingSetup, read_setup
from headrace.protocol.common.pooling.pooler_config import PoolerConfig
from headrace.protocol.common.pooling.pooler_overrides import (
    longest_embedded,
    with_pooler_config,
)
from headrace.protocol.common.speech.speech_info import SpeechInfo
from headrace.protocol.common.speech.speech_setup import SpeechFilesError, read_speech_setup
from headrace.protocol.common.speech.speech_types import is_speech_model
from headrace.protocol.pooling import Convert
from headrace.protocol.text import PoolingInfo, TextInfo

# The files from which a tokenizer is made, in any of its forms.
TOKENIZER_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
MAX_CONTEXT_LENGTH = 100_000_000  # tokenizers without a limit of their own say 1e30


@dataclass(frozen=True, slots=True)
class TextOverrides:
    """The operator's changes to the settings of the model's authors (see PrepareOptions).

    pools_for: what the model is converted for; None: it generates. pooler: how it pools.
    recommended: sampling parameters of the authors that are not in the folder, for "auto".
    """

    max_model_len: int | None = None
    chat_template: str | None = None
    generation_config: str = "auto"
    override_generation_config: Mapping[str, Any] = field(default_factory=dict)
    pools_for: Convert | None = None
    pooler: PoolerConfig | None = None
    recommended: Mapping[str, float] = field(default_factory=dict)


def text_key(model: Path) -> str:
    """Return a digest of all that the facts of a model folder depend on."""
    files = [model / name for name in TOKENIZER_FILES] + sorted(model.glob("*.tiktoken"))
    return joint_digest([file_digest(file) for file in files if file.is_file()])


def write_text_folder(
    model: Path, facts_path: Path, text_path: Path, overrides: TextOverrides
) -> TextInfo:
    """Write the text folder of a model folder.

    Raises ModelError if an override does not fit the model, or the folder cannot be written.
    """
    facts = read_json_object(facts_path / "facts.json", required=True)
    try:
        info = _text_info(model, facts, overrides)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{model}: {field}: {first['msg']}") from error
    try:
        text_path.mkdir(parents=True, exist_ok=True)
        # A copy: a link would have the permissions of the cache's file, which others may read.
        TextInfo.tokenizer_file(text_path).unlink(missing_ok=True)
        shutil.copyfile(facts_path / "tokenizer.json", TextInfo.tokenizer_file(text_path))
        TextInfo.file(text_path).write_text(info.model_dump_json(indent=1), encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{text_path}: cannot be written: {error.strerror}") from error
    return info


def _text_info(model: Path, facts: dict[str, Any], overrides: TextOverrides) -> TextInfo:
    config, generation = facts["config"], read_json_object(model / "generation_config.json")
    template, templates = model_templates(model)
    if overrides.chat_template is not None:
        template, templates = override_template(overrides.chat_template), {}
    if not isinstance(config.get("vocab_size"), int):
        raise ModelError(f"{model}: its config.json gives no vocab_size")
    source, override = overrides.generation_config, overrides.override_generation_config
    defaults = generation_defaults(model, source, override, overrides.recommended)
    speech = _speech_info(model, facts, overrides)
    setup = _pooling_setup(model, config, overrides)
    length = _max_model_len(model, facts, overrides.max_model_len, setup)
    return TextInfo(
        max_model_len=length,
        vocab_size=config["vocab_size"],
        eos_token_ids=_eos_token_ids(config, generation, facts, overrides),
        chat_template=template,
        chat_templates=templates,
        generation_defaults=defaults,
        max_output_tokens=output_ceiling(source, override, defaults),
        tokenizer_class=facts["tokenizer_class"],
        added_tokens=facts["added_tokens"],
        pooling=None if setup is None else _pooling_info(model, setup, config, overrides, length),
        speech=speech,
        **facts["special_tokens"],
    )


def _pooling_setup(
    model: Path, config: dict[str, Any], overrides: TextOverrides
) -> PoolingSetup | None:
    if overrides.pools_for is None:
        if overrides.pooler is not None:
            raise ModelError("--pooler-config: is of models that pool, and this one generates")
        return None
    try:
        return with_pooler_config(read_setup(model, overrides.pools_for, config), overrides.pooler)
    except PoolingFilesError as error:
        raise ModelError(str(error)) from error


def _speech_info(model: Path, facts: dict[str, Any], overrides: TextOverrides) -> SpeechInfo | None:
    """Return how a model transcribes; None if it does not."""
    if not is_speech_model(facts["config"]):
        return None
    if overrides.pools_for is not None:
        raise ModelError(f"{model}: transcribes, which --runner pooling excludes")
    added = {int(index): text for index, text in facts["added_tokens"].items()}
    try:
        return read_speech_setup(model, added)
    except (SpeechFilesError, PoolingFilesError) as error:
        raise ModelError(str(error)) from error


def _pooling_info(
    model: Path,
    setup: PoolingSetup,
    config: dict[str, Any],
    overrides: TextOverrides,
    max_model_len: int,
) -> PoolingInfo:
    modules, said = setup.modules, overrides.pooler or PoolerConfig()
    try:
        longest = longest_embedded(overrides.pooler, max_model_len)
    except PoolingFilesError as error:
        raise ModelError(str(error)) from error
    return PoolingInfo(
        tasks=setup.tasks,
        size=setup.size,
        dimensions=setup.dimensions,
        prompts={**modules.prompts, **_task_instructions(config)},
        default_prompt=modules.default_prompt,
        includes_prompt=modules.includes_prompt,
        lowercases=modules.lowercases,
        has_token_types=config.get("type_vocab_size", 0) > 1,
        # A generator that classifies has read no pairs, but its own prompts.
        separates_pairs=bool(
            config.get("use_sep_token", config.get("classifier_from_token") is None)
        ),
        truncation_side=_truncation_side(model),
        normalizes=modules.normalizes,
        similarity=modules.similarity,
        labels=setup.labels,
        max_embed_len=longest,
        default_task=said.task,
        default_dimensions=said.dimensions,
        activates=said.use_activation,
        routes=tuple(modules.routes),
    )


def _task_instructions(config: dict[str, Any]) -> dict[str, str]:
    """Return the prompts that config.json has by name, as the reference reads them."""
    found = config.get("task_instructions")
    texts = found if isinstance(found, dict) else {}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _truncation_side(model: Path) -> Literal["left", "right"]:
    try:
        settings = read_object(model / "tokenizer_config.json")
    except PoolingFilesError as error:
        raise ModelError(str(error)) from error
    return "left" if settings.get("truncation_side") == "left" else "right"


def _max_model_len(
    model: Path, facts: dict[str, Any], requested: int | None, setup: PoolingSetup | None
) -> int:
    """Return the most tokens of a text, of prompt and output together where there is one."""
    if setup is None:
        return _context_length(model, facts, requested)
    if requested is not None and not 1 <= requested <= setup.longest:
        raise ModelError(
            f"--max-model-len {requested}: must be from 1 to the model's own {setup.longest} tokens"
        )
    return requested or setup.own_length


def _context_length(model: Path, facts: dict[str, Any], requested: int | None) -> int:
    """Return the tokens that the model can handle, or fewer if the operator requests so."""
    own = _own_context_length(facts)
    if requested is None:
        if own is None:
            raise ModelError(f"{model}: does not say how long its context is: give --max-model-len")
        return own
    if requested < 1:
        raise ModelError(f"--max-model-len {requested}: must be at least 1")
    if own is not None and requested > own:
        raise ModelError(f"--max-model-len {requested}: is more than the model's own {own} tokens")
    return requested


def _own_context_length(facts: dict[str, Any]) -> int | None:
    """Return the length in the configuration, else in the tokenizer; None if neither has one."""
    own = context_length(facts["config"])
    limit = facts.get("model_max_length")
    if own is None and limit and 0 < limit <= MAX_CONTEXT_LENGTH:
        return int(limit)
    return own


def _eos_token_ids(
    config: dict[str, Any],
    generation: dict[str, Any],
    facts: dict[str, Any],
    overrides: TextOverrides,
) -> tuple[int, ...]:
    """Return the ids that end an output, in ascending order: those of any of the files, or those
    that the operator gives."""
    ids: set[int] = set()
    override = overrides.override_generation_config
    sources = [override] if "eos_token_id" in override else [config, generation, facts]
    for source in sources:
        value = source.get("eos_token_id")
        values = value if isinstance(value, list) else [value]
        ids.update(each for each in values if isinstance(each, int) and not isinstance(each, bool))
    return tuple(sorted(i for i in ids if 0 <= i < config["vocab_size"]))
