"""Decide what a model is for: what its folder and the operator say, in one place for all processes.

The reference's words: a model has a runner (generate or pooling), and is converted for a task that
its own head does not do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from headrace.protocol.common.context_length import context_length, switch_length
from headrace.protocol.common.pooling.answer_tokens import AnswerTokens, read_answer_tokens
from headrace.protocol.common.pooling.headers import tensor_shape
from headrace.protocol.common.pooling.json_files import PoolingFilesError, is_count, read_object
from headrace.protocol.common.pooling.labels import read_activation, read_labels
from headrace.protocol.common.pooling.module_layers import DenseModule, size_after
from headrace.protocol.common.pooling.sentence_modules import (
    SentenceModules,
    is_cross_encoder,
    read_lengths,
    read_sentence_modules,
)
from headrace.protocol.pooling import Convert, PoolingTask, Runner

_COLBERT = "ColBERT"
# The ends of architectures' names, the first that fits first, and what such models are for.
_ENDS: tuple[tuple[str, Runner, Convert], ...] = (
    ("ForCausalLM", "generate", "none"),
    ("ForConditionalGeneration", "generate", "none"),
    ("LMHeadModel", "generate", "none"),
    ("ForMaskedLM", "pooling", "embed"),
    ("ForPreTraining", "pooling", "embed"),
    ("ForTextEncoding", "pooling", "embed"),
    ("ForSequenceClassification", "pooling", "classify"),
    ("ForTokenClassification", "pooling", "classify"),
    (_COLBERT, "pooling", "embed"),
    ("Model", "pooling", "embed"),
)
# Models whose positions begin after the id of their padding token.
_SHIFTED_POSITIONS = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text", "mpnet", "esm"}
    | {"longformer", "ibert", "roberta-prelayernorm", "xmod"}
)
# Types of models that read texts in both directions: what they are for where a file names no
# architecture, or one of the authors' own.
_ENCODER_TYPES = _SHIFTED_POSITIONS | {
    *("albert", "bert", "big_bird", "convbert", "deberta", "deberta-v2", "distilbert", "electra"),
    *("ernie", "eurobert", "funnel", "layoutlm", "megatron-bert", "mobilebert", "modernbert"),
    *("nomic_bert", "nystromformer", "rembert", "roc_bert", "roformer", "squeezebert"),
}
_CLASSIFIERS: dict[str, PoolingTask] = {
    "ForSequenceClassification": "classify",
    "ForTokenClassification": "token_classify",
}
_MAX_LENGTH = 100_000_000  # tokenizers without a limit of their own say 1e30


@dataclass(frozen=True, slots=True)
class PoolingSetup:
    """How a model pools.

    own_length, longest: tokens of a text: what the authors say, and what the model takes at most.
    size: numbers of an embedding, or of labels. dimensions: to how many they may be cut; empty: any
        number, for embeddings that may be cut; None: they may not.
    labels: of a classifier, by their numbers; empty: it embeds. activation: what makes numbers of
        their scores: sigmoid, softmax or none. answers: tokens whose logits are the scores; None:
        the model has a head of its own. logit_mean, logit_sigma: scores less the one, over the
        other, before that.
    step_tag_id: of the tokens whose numbers are answered where those of tokens are; None: of all.
    """

    tasks: tuple[PoolingTask, ...]
    modules: SentenceModules
    own_length: int
    longest: int
    size: int
    dimensions: tuple[int, ...] | None
    labels: tuple[str, ...] = ()
    activation: str = "none"
    answers: AnswerTokens | None = None
    logit_mean: float = 0.0
    logit_sigma: float = 1.0
    step_tag_id: int | None = None


def choose_runner(
    folder: Path,
    runner: Literal["auto", "generate", "pooling"],
    convert: Literal["auto", "none", "embed", "classify"],
) -> tuple[Runner, Convert]:
    """Return what a model is used for, as the operator says or as its folder does.

    Raises PoolingFilesError if the folder's files are damaged, or the operator's words exclude each
    other.
    """
    own_runner, own_convert = _own_use(folder)
    if runner == "auto":
        runner = "pooling" if convert in ("embed", "classify") else own_runner
    if runner == "generate":
        if convert not in ("auto", "none"):
            raise PoolingFilesError(f"--convert {convert}: excludes --runner generate")
        return "generate", "none"
    if convert == "auto":
        convert = own_convert if own_convert != "none" else "embed"
    return "pooling", "embed" if convert == "none" else convert


def read_setup(
    folder: Path, convert: Convert | Literal["auto"], config: Mapping[str, Any]
) -> PoolingSetup:
    """Return how a model pools.

    convert: what it is converted for; auto: as the folder says.
    config: its config.json, as it is or as transformers completes it.

    Raises PoolingFilesError if it cannot.
    """
    if convert == "auto":
        convert = choose_runner(folder, "pooling", "auto")[1]
    if convert == "classify":
        return _classifier(folder, config)
    modules = read_sentence_modules(folder)
    if modules is None and _architecture(config).endswith(_COLBERT):
        modules = _colbert_modules(folder, config)
    if modules is None:
        modules = SentenceModules(modes=_default_modes(config), normalizes=True)
    longest = _longest(folder, config)
    own = modules.max_tokens or _tokenizer_length(folder) or longest
    return PoolingSetup(
        tasks=("embed", "token_embed") if modules.modes else ("token_embed",),
        modules=modules,
        own_length=min(own, longest),
        longest=longest,
        size=_size(folder, modules, config),
        dimensions=_dimensions(config),
    )


def _classifier(folder: Path, config: Mapping[str, Any]) -> PoolingSetup:
    """Return how a model classifies. Raises PoolingFilesError if it has no head for that."""
    task = next(
        (task for end, task in _CLASSIFIERS.items() if _architecture(config).endswith(end)), None
    )
    answers = read_answer_tokens(folder, config)
    if answers is not None:
        task = "classify"
    if task is None:
        raise PoolingFilesError(f"{folder}: {_architecture(config)} has no head that classifies")
    longest = _longest(folder, config)
    lengths = read_lengths(folder)
    labels = read_labels(folder, config) if answers is None else answers.labels
    given = lengths.get("max_seq_length")
    own = (given if is_count(given) else None) or _tokenizer_length(folder) or longest
    # A pair's score is the number of the only label.
    scores = task == "classify" and len(labels) == 1
    return PoolingSetup(
        tasks=(task, "score") if scores else (task,),
        modules=SentenceModules(lowercases=bool(lengths.get("do_lower_case"))),
        own_length=min(own, longest),
        longest=longest,
        size=len(labels),
        dimensions=None,
        labels=labels,
        activation=read_activation(folder, config, len(labels)),
        answers=answers,
    )


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def _own_use(folder: Path) -> tuple[Runner, Convert]:
    """Return what the authors' files say."""
    if is_cross_encoder(folder):
        return "pooling", "classify"
    if read_sentence_modules(folder) is not None:
        return "pooling", "embed"
    config = read_object(folder / "config.json")
    names = config.get("architectures")
    for name in names if isinstance(names, list) else []:
        for end, runner, convert in _ENDS:
            if str(name).endswith(end):
                return runner, convert
    is_encoder = config.get("model_type") in _ENCODER_TYPES and not config.get("is_decoder")
    return ("pooling", "embed") if is_encoder else ("generate", "none")


def _colbert_modules(folder: Path, config: Mapping[str, Any]) -> SentenceModules:
    """Return the modules of a model in the form of ColBERT's authors: a linear layer for each
    token, whose weights lie with the others."""
    shape = tensor_shape(folder / "model.safetensors", "linear.weight")
    if shape is None or len(shape) != 2:
        raise PoolingFilesError(f"{folder}: its model.safetensors has no matrix linear.weight")
    outputs, inputs = shape
    dense = DenseModule(folder, inputs, outputs, has_bias=False, activation="Identity")
    return SentenceModules(modes=(), layers=(dense,), normalizes=True)


def _default_modes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return how a model without modules pools: a decoder's last token has read the whole text, an
    encoder's first one stands for it."""
    name = _architecture(config)
    is_decoder = name.endswith(("ForCausalLM", "LMHeadModel")) or _is_decoder(config)
    return ("lasttoken",) if is_decoder else ("cls",)


def _is_decoder(config: Mapping[str, Any]) -> bool:
    """Return whether tokens see only those before them, by what configurations have in common."""
    if config.get("use_bidirectional_attention") or config.get("is_causal") is False:
        return False
    return bool(config.get("is_decoder")) or "num_key_value_heads" in config


def _longest(folder: Path, config: Mapping[str, Any]) -> int:
    """Return the most tokens of a text."""
    # Texts of one batch would have frequencies by the longest of them.
    positions = switch_length(config) or context_length(config)
    if positions is None:
        positions = _tokenizer_length(folder)
    if positions is None:
        raise PoolingFilesError(f"{folder}: does not say how long its texts may be")
    if config.get("model_type") in _SHIFTED_POSITIONS:
        pad = config.get("pad_token_id")
        positions -= 1 + (pad if isinstance(pad, int) and pad >= 0 else 1)
    if positions < 1:
        raise PoolingFilesError(f"{folder}: its config.json leaves no positions for tokens")
    return positions


def _tokenizer_length(folder: Path) -> int | None:
    limit = read_object(folder / "tokenizer_config.json").get("model_max_length")
    is_number = isinstance(limit, int | float) and not isinstance(limit, bool)
    return int(cast(float, limit)) if is_number and 0 < cast(float, limit) <= _MAX_LENGTH else None


def _size(folder: Path, modules: SentenceModules, config: Mapping[str, Any]) -> int:
    """Return the numbers of an embedding. Raises PoolingFilesError if modules do not fit."""
    text = config.get("text_config")
    values = text if isinstance(text, Mapping) else config
    hidden = next(
        (values[name] for name in ("hidden_size", "dim", "d_model", "n_embd") if name in values),
        None,
    )
    if not is_count(hidden):
        raise PoolingFilesError(f"{folder}: its config.json gives no hidden_size")
    sizes = {
        size_after(route.layers, int(hidden or 0) * max(1, len(route.modes)))
        for route in modules.routes.values() or (modules,)
    }
    if len(sizes) > 1:
        raise PoolingFilesError(f"{folder}: its Router's embeddings are not of one size: {sizes}")
    return sizes.pop()


def _dimensions(config: Mapping[str, Any]) -> tuple[int, ...] | None:
    given = config.get("matryoshka_dimensions")
    if isinstance(given, list) and given and all(map(is_count, given)):
        return tuple(sorted(given))
    return () if config.get("is_matryoshka") else None
