"""Convert model files: `python -m headrace.workers.prepare.prepare WHAT SOURCE OUTPUT`.

gguf: writes a folder in Hugging Face layout for a GGUF file, which keeps the weights, and in it a
    folder with what `text` writes.
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
import os
import signal
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from headrace.protocol.common.gguf_reference import FACTS, GGUFFilesError
from headrace.protocol.common.pooling.json_files import PoolingFilesError, read_object
from headrace.protocol.common.pooling.static_embedding import STATIC_TYPE
from headrace.protocol.logs.set_up import inherited_options, set_up_logging, writes_json
from headrace.protocol.logs.standard_streams import make_streams_safe
from headrace.workers.errors import named_in_one_line
from headrace.workers.prepare.gguf_folder import write_gguf_folder
from headrace.workers.prepare.gguf_header import GGUFError
from headrace.workers.prepare.pickles import PickleError, convert_pickles
from headrace.workers.prepare.plain_folder import NeedsCodeError, plain_folder
from headrace.workers.prepare.stages import Stages
from headrace.workers.prepare.static_facts import write_static_facts

PR_SET_PDEATHSIG = 1
SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
VOCABULARY_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tekken.json")
# Errors whose texts are for the operator as they are.
_OWN_ERRORS = (GGUFFilesError, NeedsCodeError, PickleError, PoolingFilesError)
SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


class PrepareError(Exception):
    """The conversion is impossible; the text is one line for the operator."""


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
            write_gguf_folder(options.source, options.output)
            facts = options.output / FACTS
            if not facts.is_dir():
                facts.mkdir()
                write_facts(options.output, facts, name=options.source.name)
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


def write_facts(
    source: Path, output: Path, trusts_code: bool = False, name: str | None = None
) -> None:
    """Write tokenizer.json and facts.json of the model folder `source` to `output`.

    trusts_code: whether code of the folder may run. name: for the progress; None: the folder's.
    """
    _check_vocabulary(source)
    config = read_object(source / "config.json")
    if config.get("model_type") == STATIC_TYPE:
        return write_static_facts(source, output, config)
    stages = Stages(f"preparing the tokenizer of {name or source.name}", total=4)
    with stages.stage("loading transformers", weight=2):
        from transformers import AutoConfig, AutoTokenizer
    with stages.stage("tokenizer"), _folder(source, trusts_code) as folder:
        # False is said, too: otherwise transformers would ask.
        options = {"local_files_only": True, "trust_remote_code": trusts_code}
        config = AutoConfig.from_pretrained(folder, **options)
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
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


def _folder(source: Path, trusts_code: bool) -> AbstractContextManager[Path]:
    return nullcontext(source) if trusts_code else plain_folder(source)


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


def _one_line(error: Exception) -> str:
    """Return the first line of an error, without the advice that libraries add to it."""
    told = named_in_one_line(error)
    text = told.partition(": ")[2] or told
    if isinstance(error, (GGUFError, PrepareError, *_OWN_ERRORS)):
        return text
    if not isinstance(error, (ValueError, OSError)):  # a KeyError's text is only the key
        text = told
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
