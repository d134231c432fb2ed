"""Where a LoRA adapter is that an operator names: a folder, or an id of the Hugging Face hub."""

from pathlib import Path

from headrace.protocol.common import hub
from headrace.protocol.common.adapters import CONFIG, WEIGHTS, AdapterUnusable

_OUTSIDE = "it must lie in the folder that the server has for adapters"
_NOWHERE = "no adapter is there"


def locate_adapter(path: str, lora_dir: Path | None) -> tuple[Path, str | None]:
    """The folder with an adapter's files, and the hub's id if it has one. AdapterUnusable if it
    cannot be had, without a word about what else there is.

    lora_dir: where all adapters lie, and what relative paths start from; nothing is then taken from
    elsewhere, the hub included. None: they lie anywhere, and a relative path is a hub id.
    """
    if ".." in Path(path).parts or "\0" in path:
        raise AdapterUnusable("a path must not go upwards ('..')")
    if lora_dir is not None:
        return _inside(lora_dir / path, lora_dir), None
    if Path(path).is_absolute():
        if not Path(path).is_dir():
            raise AdapterUnusable(_NOWHERE, is_missing=True)
        return Path(path), None
    return _from_hub(path)


def _inside(folder: Path, lora_dir: Path) -> Path:
    """The folder, if it and its files lie where they may, whatever links there are."""
    root = lora_dir.resolve()
    folder = folder.resolve()
    if not all(
        each.resolve().is_relative_to(root) for each in (folder, folder / CONFIG, folder / WEIGHTS)
    ):
        raise AdapterUnusable(_OUTSIDE)
    if not folder.is_dir():
        raise AdapterUnusable(_NOWHERE, is_missing=True)
    return folder


def _from_hub(hub_id: str) -> tuple[Path, str]:
    match = hub.HUB_ID.fullmatch(hub_id)
    if match is None:
        reason = "it is no absolute path, and no hub id (organisation/name, or with @revision)"
        raise AdapterUnusable(reason)
    try:
        return hub.download(match["repo"], match["revision"], [CONFIG, WEIGHTS]), match["repo"]
    except hub.HubError as error:
        raise AdapterUnusable(f"{match['repo']}: {error}", is_missing=True) from error
