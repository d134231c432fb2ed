"""Models and adapters from the Hugging Face hub: downloaded once, into the hub's own cache."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)
MODEL_FILES = [
    "*.json",
    "*.safetensors",
    "*.jinja",
    "tokenizer.model",
    "tokenizer.model.v*",
    "*.tiktoken",
    "spiece.model",
    "sentencepiece.bpe.model",
    "merges.txt",
    "vocab.txt",
]
UNWANTED = ["*.bin", "*.pt", "*.py", "original/*", "consolidated*", "onnx/*", "metal/*"]


class HubError(Exception):
    """Why something cannot be had, in one line that is fit to be shown to an operator."""


def download(repo: str, revision: str | None, wanted: Sequence[str]) -> Path:
    """The folder with a snapshot of the repository, downloaded if need be; HubError if not.

    wanted: patterns of files. Of these only data is fetched: no pickled weights and no code.
    HF_HUB_OFFLINE, HF_TOKEN and HF_HOME mean what they mean everywhere.
    """
    import huggingface_hub  # a sixth of a second, which local models need not pay
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        folder = huggingface_hub.snapshot_download(
            repo, revision=revision, allow_patterns=list(wanted), ignore_patterns=UNWANTED
        )
    except (OSError, ValueError) as error:
        raise HubError(_explain(error, repo, revision)) from error
    return Path(folder)


def _explain(error: Exception, repo: str, revision: str | None) -> str:
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            return (
                "its authors grant access only on request: ask for it at "
                f"https://huggingface.co/{repo} and set HF_TOKEN"
            )
        case errors.RepositoryNotFoundError():
            return "no such repository on the hub, or a private one (then set HF_TOKEN)"
        case errors.RevisionNotFoundError():
            return f"the repository has no revision {revision!r}"
        case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError():
            return (
                "is not in the hub's cache and cannot be downloaded: "
                "the hub is out of reach, or HF_HUB_OFFLINE is set"
            )
        case errors.HfHubHTTPError() | ConnectionError():
            return f"the hub does not answer as it should: {_first_line(error)}"
        case errors.HFValidationError():
            return "is not a hub id of the form organisation/name"
    return f"cannot be downloaded: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
