"""The key of a model's program: a digest of everything that the program and its check depend on."""

import functools
import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path

from headrace.protocol.common.gguf_reference import REFERENCE
from headrace.protocol.common.stored_quantization import QUANTIZATION_FILES
from headrace.protocol.config import EngineConfig
from headrace.workers.native.library import find_kernels

FORMAT = 3  # of the files; another number makes all of them anew
_WORKERS = Path(__file__).parents[1]
# The code that makes programs, and that decides whether a model has one. "": modules of no room.
_SOURCES = (
    "",
    "attention",
    "linear",
    "lora",
    "native",
    "native/experts",
    "pooling",
    "program_cache",
    "quantized",
    "speech",
    "torch_runner",
)
_LIBRARIES = ("torch", "transformers", "safetensors", "gguf")
# Options of which no program depends: how much runs at once, and with how much memory. Any option
# that is not named here is a part of the key.
_OTHER_OPTIONS = {
    "enable_prefix_caching", "enforce_eager", "fake_step_s", "kv_cache_bytes",
    "max_loras", "max_lora_rank", "max_model_len", "max_num_batched_tokens", "max_num_seqs",
    "max_queue_requests", "max_queue_tokens", "memory_utilization", "pooler_config", "seed",
    "speculative_config", "threads",
}  # fmt: skip
_CPU_FACTS = ("model name", "flags", "Features", "CPU part")


def program_key(model_path: Path, config: EngineConfig) -> str | None:
    """Return the key; None if the model's program cannot be cached.

    That is so without compiled kernels, and for a model with code of its own.

    Raises OSError if the model's files cannot be read.
    """
    kernels = find_kernels(config.cpu_kernels)
    text = (model_path / "config.json").read_bytes()
    runs_code = config.trust_remote_code and _has_own_code(text)
    if kernels is None or config.cpu_kernels == "torch" or runs_code:
        return None
    parts = [
        FORMAT,
        _code_digest(),
        [importlib.metadata.version(library) for library in _LIBRARIES],
        kernels.build,
        kernels.name,
        _processor(),
        hashlib.sha256(text).hexdigest(),
        _stamps(model_path),
        _named_heads(model_path),
        config.model_dump(mode="json", exclude=_OTHER_OPTIONS),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _has_own_code(text: bytes) -> bool:
    try:
        return "auto_map" in json.loads(text)
    except (ValueError, TypeError):
        return True  # whatever it is, loading it says so


def _named_heads(model_path: Path) -> object:
    """Return the heads that a model's authors name as those that follow speech."""
    try:
        return json.loads((model_path / "generation_config.json").read_bytes())["alignment_heads"]
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _stamps(model_path: Path) -> list[tuple[str | int, ...]]:
    """Return what tells that a file of weights has changed: reading them all would take longer
    than the start that the cache saves."""
    files = sorted([*model_path.glob("*.safetensors"), *model_path.glob("*.index.json")])
    found = [(file.name, file.stat()) for file in files]
    stamps: list[tuple[str | int, ...]] = []
    stamps += [(name, info.st_size, info.st_mtime_ns) for name, info in found]
    others = (model_path / name for name in QUANTIZATION_FILES[1:])
    stamps += [
        (file.name, hashlib.sha256(file.read_bytes()).hexdigest())
        for file in others
        if file.is_file()
    ]
    reference = model_path / REFERENCE
    if reference.is_file():  # it has the stamps of GGUF files, and where their tensors lie
        stamps.append((REFERENCE, hashlib.sha256(reference.read_bytes()).hexdigest()))
    return stamps


@functools.cache
def _code_digest() -> str:
    digest = hashlib.sha256()
    for folder in _SOURCES:
        for path in sorted((_WORKERS / folder).glob("*.py")):
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _processor() -> str:
    """Return what tells processors apart, by which kernels and dtypes are chosen."""
    found = [platform.machine()]
    try:
        with Path("/proc/cpuinfo").open() as stream:
            for line in stream:
                if not line.strip():  # the other processors of a machine are alike
                    break
                if line.startswith(_CPU_FACTS):
                    found.append(line.strip())
    except OSError:
        pass
    return hashlib.sha256("\n".join(found).encode()).hexdigest()
