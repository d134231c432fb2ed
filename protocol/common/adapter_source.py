"""Locate the LoRA adapter that an operator names: a folder, or an id of the Hugging Face hub."""

from pathlib import Path

from headrace.protocol.common import hub
from headrace.protocol.common.adapters import CONFIG, OUTSIDE, WEIGHTS, InvalidAdapter

_NOWHERE = "no adapter is there"


def locate_adapter(path: str, lora_dir: Path | None) -> tuple[Path, str | None]:
    """Return the folder with an adapter's files, and its hub id if it has one.

    Raises InvalidAdapter if it is not available; the text does not reveal what else exists.

    lora_dir: the only folder that adapters are loaded from, and the base of relative paths; the hub
    is not used. None: adapters may be anywhere, and a relative path is a hub id.
    """
    if ".." in Path(path).parts or "\0" in path:
        raise InvalidAdapter("a path must not go upwards ('..')")
    if lora_dir is not None:
        return _inside(lora_dir / path, lora_dir), None
    if Path(path).is_absolute():
        if not Path(path).is_dir():
            raise InvalidAdapter(_NOWHERE, is_missing=True)
        return Path(path), None
    return _from_hub(path)


def _inside(folder: Path, lora_dir: Path) -> Path:
    """Return the folder if it and its files, with links resolved, are inside lora_dir."""
    root = lora_dir.resolve()
    folder = folder.resolve()
    if not all(
        path.resolve().is_relative_to(root) for path in (folder, folder / CONFIG, folder / WEIGHTS)
    ):
        raise InvalidAdapter(OUTSIDE)
    if not folder.is_dir():
        raise InvalidAdapter(_NOWHERE, is_missing=True)
    return folder


def _from_hub(hub_id: str) -> tuple[Path, str]:
    match = hub.HUB_ID.fullmatch(hub_id)
    if match is None:
        reason = "neither an absolute path nor a hub id (organisation/name, or with @revision)"
        raise InvalidAdapter(reason)
    try:
        return hub.download(match["repo"], match["revision"], [CONFIG, WEIGHTS]), match["repo"]
    except hub.HubError as error:
        raise InvalidAdapter(f"{match['repo']}: {error}", is_missing=True) from error
