"""Download models and adapters from the Hugging Face hub, once, into the hub's own cache."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
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
TOKENIZER_FILES = [pattern for pattern in MODEL_FILES if pattern != "*.safetensors"]
# Only where the operator has said so: they can run code of their authors.
CODE_FILES = ["*.py"]
PICKLE_FILES = ["pytorch_model.bin", "pytorch_model-*.bin"]
EXCLUDED_FILES = ["*.bin", "*.pt", "*.py", "original/*", "consolidated*", "onnx/*", "metal/*"]


class HubError(Exception):
    """A download failed; the message says why, in one line for the operator."""


@dataclass(frozen=True, slots=True)
class HubOptions:
    """Options of downloads. revision: unless an id names one. folder: instead of the hub's cache.

    token: a token; True: the one that `hf auth login` has stored; None: as the environment says.
    """

    revision: str | None = None
    folder: Path | None = None
    token: str | bool | None = field(default=None, repr=False)


AS_USUAL = HubOptions()


def download(
    repo: str,
    revision: str | None,
    patterns: Sequence[str],
    options: HubOptions = AS_USUAL,
) -> Path:
    """Return the folder with a snapshot of the repository, downloading it if necessary.

    patterns: of the files to download. Pickled weights and code are left out, unless the patterns
        of those are among them. The environment variables HF_HUB_OFFLINE, HF_TOKEN and HF_HOME have
        their usual meaning.
    Raises HubError if the download fails.
    """
    import huggingface_hub  # takes a sixth of a second, which local models do not need
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    revision = revision or options.revision
    try:
        folder = huggingface_hub.snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(patterns),
            ignore_patterns=_excluded(patterns),
            cache_dir=options.folder,
            token=options.token,
        )
    except (OSError, ValueError) as error:
        raise HubError(_explain(error, repo, revision)) from error
    return Path(folder)


def pickles_of(repo: str, revision: str | None, options: HubOptions = AS_USUAL) -> list[str]:
    """Return the names of a repository's pickled weights; none if the hub cannot be asked."""
    import huggingface_hub

    try:
        names = huggingface_hub.list_repo_files(
            repo, revision=revision or options.revision, token=options.token
        )
    except (OSError, ValueError):
        return []
    return [name for name in names if "/" not in name and name.endswith((".bin", ".pt", ".pth"))]


def _excluded(patterns: Sequence[str]) -> list[str]:
    allowed = {
        "*.py" if set(CODE_FILES) <= set(patterns) else "",
        "*.bin" if set(PICKLE_FILES) <= set(patterns) else "",
    }
    return [pattern for pattern in EXCLUDED_FILES if pattern not in allowed]


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
            return f"the request to the hub failed: {_first_line(error)}"
        case errors.HFValidationError():
            return "is not a hub id of the form organisation/name"
    return f"cannot be downloaded: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
