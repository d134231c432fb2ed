"""Convert model files: `python -m headrace.workers.prepare.prepare WHAT SOURCE OUTPUT`.

gguf: converts a GGUF file to a folder in Hugging Face layout, with weights in float32.
text: writes, for a folder in Hugging Face layout, tokenizer.json as transformers would use it and
    facts.json: the completed configuration and the special tokens.
trusted-text: the same, with the code that the folder brings.
pickle: writes the weights of pickled files in a folder in Hugging Face layout as safetensors.

The launcher runs this because it needs transformers. Progress goes to stderr, as a bar on a
terminal and as plain lines elsewhere. On failure the reason is one line on stdout and the exit
status is 1.
"""

import argparse
import ctypes
import importlib.util
import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headrace.protocol.logs.set_up import inherited_options, set_up_logging, writes_json
from headrace.protocol.logs.standard_streams import make_streams_safe
from headrace.workers.prepare.gguf_header import GGUFError, GGUFHeader, read_gguf_header
from headrace.workers.prepare.pickles import PickleError, convert_pickles

log = logging.getLogger("headrace.prepare")

PR_SET_PDEATHSIG = 1
FLOAT32_BYTES = 4
SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
VOCABULARY_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tekken.json")
SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


class PrepareError(Exception):
    """The conversion is impossible; the text is one line for the operator."""


class Stages:
    """The progress of a preparation in stages, whose weights sum up to `total`."""

    def __init__(self, title: str, total: int) -> None:
        from tqdm import tqdm  # type: ignore[import-untyped]

        self._title = title
        self._bar = tqdm(
            total=total,
            desc=title,
            disable=writes_json() or not sys.stderr.isatty(),
            bar_format="{desc}: {percentage:3.0f}% |{bar}| {elapsed}{postfix}",
        )

    @contextmanager
    def stage(self, name: str, weight: int = 1) -> Iterator[None]:
        started_s = time.monotonic()
        self._bar.set_postfix_str(name)
        yield
        self._bar.update(weight)
        line = f"{self._title}: {name}: {time.monotonic() - started_s:.1f} s"
        if writes_json():
            log.info("%s", line)
        elif self._bar.disable:
            print(line, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()


def main(arguments: list[str] | None = None) -> int:
    make_streams_safe()
    parser = argparse.ArgumentParser(prog="headrace.workers.prepare.prepare", description=__doc__)
    parser.add_argument("what", choices=("gguf", "text", "trusted-text", "pickle"))
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--parent-pid", type=int, help="the launcher, if it waits for the result")
    options = parser.parse_args(arguments)
    _die_with_parent(options.parent_pid)
    if writes_json():
        set_up_logging("prepare", inherited_options("info"))
    _quiet_libraries()
    try:
        if options.what == "gguf":
            convert_gguf(options.source, options.output)
        elif options.what == "pickle":
            convert_pickles(options.source, options.output)
        else:
            write_facts(options.source, options.output, options.what == "trusted-text")
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # the boundary: transformers raises anything on a bad model
        print(_one_line(error))
        return 1
    return 0


def convert_gguf(source: Path, output: Path) -> None:
    """Write config, float32 safetensors and tokenizer of the GGUF file `source` to `output`."""
    header = _check(source, output)
    stages = Stages(f"preparing {source.name}", total=12)
    with stages.stage("loading torch"):
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig
    source_arguments = {"gguf_file": source.name, "local_files_only": True}
    with stages.stage(f"reading {header.architecture}", weight=2):
        config = AutoConfig.from_pretrained(source.parent, **source_arguments)
    with stages.stage("tokenizer", weight=2):
        tokenizer = AutoTokenizer.from_pretrained(source.parent, config=config, **source_arguments)
        tokenizer.save_pretrained(output)
    with stages.stage("weights", weight=6), torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(
            source.parent,
            config=config,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            **source_arguments,
        )
    with stages.stage("writing"):
        model.save_pretrained(output)
    stages.close()


def write_facts(source: Path, output: Path, trusts_code: bool = False) -> None:
    """Write tokenizer.json and facts.json of the model folder `source` to `output`.

    trusts_code: whether code of the folder may run.
    """
    _check_vocabulary(source)
    stages = Stages(f"preparing the tokenizer of {source.name}", total=4)
    with stages.stage("loading transformers", weight=2):
        from transformers import AutoConfig, AutoTokenizer
    with stages.stage("tokenizer"):
        # False is said, too: otherwise transformers would ask.
        options = {"local_files_only": True, "trust_remote_code": trusts_code}
        config = AutoConfig.from_pretrained(source, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise PrepareError(f"{type(tokenizer).__name__} has no form that tokenizers can read")
    with stages.stage("writing"):
        backend.no_truncation()
        backend.no_padding()
        backend.save(str(output / "tokenizer.json"), pretty=False)
        facts = _facts(config, tokenizer)
        (output / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    stages.close()


def _facts(config: Any, tokenizer: Any) -> dict[str, Any]:
    text_config = config.get_text_config(decoder=True)
    added = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items()}
    return {
        "config": json.loads(text_config.to_json_string(use_diff=False)),
        "special_tokens": {name: _text(getattr(tokenizer, name)) for name in SPECIAL_TOKENS},
        "eos_token_id": tokenizer.eos_token_id,
        "model_max_length": tokenizer.model_max_length,
        "tokenizer_class": type(tokenizer).__name__,
        "added_tokens": added,
    }


def _check_vocabulary(source: Path) -> None:
    """Check that there is a usable vocabulary; raises PrepareError if not.

    transformers would make an empty tokenizer, or name the wrong missing package.
    """
    if any((source / name).is_file() for name in VOCABULARY_FILES) or any(
        source.glob("*.tiktoken")
    ):
        return
    pieces = [name for name in SENTENCEPIECE_FILES if (source / name).is_file()]
    if not pieces:
        raise PrepareError("no tokenizer in this folder")
    missing = [
        package
        for package, module in (("sentencepiece", "sentencepiece"), ("protobuf", "google.protobuf"))
        if not _is_installed(module)
    ]
    if missing:
        raise PrepareError(
            f"its only tokenizer is {pieces[0]}, which needs: pip install {' '.join(missing)}"
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is not installed
        return False


def _text(token: Any) -> str | None:
    return None if token is None else str(token)


def _check(source: Path, output: Path) -> GGUFHeader:
    """Read the header; raises GGUFError or PrepareError if the file cannot be converted.

    Checked before anything slow: that the file is whole and not split, and that the disk has room.
    """
    header = read_gguf_header(source)
    if header.splits > 1:
        raise GGUFError(f"is one of {header.splits} parts of a split GGUF: join them first")
    size_bytes = source.stat().st_size
    if size_bytes < header.size_bytes:
        raise GGUFError(f"is cut short: {size_bytes} bytes of {header.size_bytes}")
    needed, free = header.parameters * FLOAT32_BYTES, shutil.disk_usage(output).free
    if free < needed:
        raise PrepareError(
            f"needs {needed / 1e9:.1f} GB in the cache folder, where {free / 1e9:.1f} GB are free"
        )
    return header


def _one_line(error: Exception) -> str:
    """Return the first line of an error, without the advice that libraries add to it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    if isinstance(error, (GGUFError, PickleError, PrepareError)):
        return text
    if not isinstance(
        error, (ValueError, OSError)
    ):  # a KeyError's text, for example, is only the key
        text = f"{type(error).__name__}: {text}"
    return f"transformers cannot read it: {text}"


def _quiet_libraries() -> None:
    """Show only our own progress bar, and download nothing."""
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def _die_with_parent(parent_pid: int | None) -> None:
    """End this process when the launcher ends; exit at once if it has already ended."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent_pid is not None and os.getppid() != parent_pid:
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
