"""Models whose configuration, tokenizer or place on the hub the operator chooses."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from safetensors.numpy import save_file

from headrace.launcher.models.changed_folder import with_changes
from headrace.launcher.models.model_cache import MANIFEST
from headrace.launcher.models.model_folder import ModelError
from headrace.launcher.models.prepare_model import PreparedModel, PrepareOptions, prepare_model
from headrace.protocol.common.hub import HubOptions
from headrace.protocol.text import TextInfo
from tests.launcher.models.test_prepare_model import CONFIG, byte_level_tokenizer, write_json


def new_model(path: Path, **config: Any) -> Path:
    path.mkdir()
    write_json(path / "config.json", {**CONFIG, **config})
    save_file({"model.norm.weight": np.ones(8, np.float32)}, path / "model.safetensors")
    byte_level_tokenizer().save(str(path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    write_json(path / "tokenizer_config.json", settings)
    (path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return new_model(tmp_path / "tiny-model")


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def prepare(tmp_path: Path, cache_dir: Path, model: str, **options: Any) -> PreparedModel:
    chosen = PrepareOptions(tmp_path / "text", cache_dir=cache_dir, **options)
    return prepare_model(model, chosen, lambda _: None)


def test_values_of_the_configuration_are_replaced(
    model: Path, tmp_path: Path, cache_dir: Path
) -> None:
    before = {file.name: file.read_bytes() for file in model.iterdir()}
    overrides = {"max_position_embeddings": 128, "rope_parameters": {"rope_type": "default"}}
    prepared = prepare(tmp_path, cache_dir, str(model), hf_overrides=overrides)
    assert prepared.served_name == "tiny-model"
    assert prepared.info.max_model_len == 128
    written = json.loads((prepared.model_path / "config.json").read_text())
    assert written == CONFIG | overrides
    assert (prepared.model_path / "model.safetensors").samefile(model / "model.safetensors")
    assert {file.name: file.read_bytes() for file in model.iterdir()} == before
    assert prepare(tmp_path, cache_dir, str(model)).info.max_model_len == 64


def test_objects_of_the_configuration_are_merged(
    model: Path, tmp_path: Path, cache_dir: Path
) -> None:
    write_json(model / "config.json", {**CONFIG, "rope_parameters": {"a": 1, "b": {"c": 2}}})
    (model / MANIFEST).write_text("{}")  # as in a folder that was itself prepared
    overrides = {"rope_parameters": {"b": {"d": 3}}}
    folder = with_changes(model, None, overrides, cache_dir, lambda _: None)
    written = json.loads((folder / "config.json").read_text())
    assert written["rope_parameters"] == {"a": 1, "b": {"c": 2, "d": 3}}
    assert (model / MANIFEST).read_text() == "{}"
    assert with_changes(model, None, overrides, cache_dir, lambda _: None) == folder


@pytest.mark.parametrize(
    "own",
    [
        {"rope_theta": 5.0, "rope_scaling": None},
        {"rope_theta": 5.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}},
    ],
)
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_rotary_embeddings_are_changed_in_files_of_any_age(
    tmp_path: Path, cache_dir: Path, own: dict[str, Any], key: str
) -> None:
    from transformers import AutoConfig

    model = new_model(tmp_path / "model", **own)
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    folder = with_changes(model, None, {key: rope}, cache_dir, lambda _: None)
    read = AutoConfig.from_pretrained(folder).rope_parameters
    assert read == {**rope, "rope_theta": 5.0}
    folder = with_changes(model, None, {"rope_theta": 7.0}, cache_dir, lambda _: None)
    assert AutoConfig.from_pretrained(folder).rope_parameters["rope_theta"] == 7.0


def test_another_tokenizer_comes_with_its_template(
    model: Path, tmp_path: Path, cache_dir: Path
) -> None:
    other = new_model(tmp_path / "other")
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens(["another"])
    tokenizer.save(str(other / "tokenizer.json"))
    (other / "chat_template.jinja").write_text("other: {{ messages[0].content }}")
    (other / "model.safetensors").unlink()
    prepared = prepare(tmp_path, cache_dir, str(model), tokenizer=str(other))
    assert "another" in TextInfo.tokenizer_file(prepared.text_path).read_text()
    assert (prepared.info.chat_template or "").startswith("other: ")
    assert prepared.served_name == "tiny-model"


@pytest.mark.parametrize("tokenizer", ["/no/such/folder", "nope", "EMPTY"])
def test_a_tokenizer_that_there_is_not(
    model: Path, tmp_path: Path, cache_dir: Path, tokenizer: str
) -> None:
    (tmp_path / "EMPTY").mkdir()
    where = str(tmp_path / "EMPTY") if tokenizer == "EMPTY" else tokenizer
    with pytest.raises(ModelError, match=r"^--tokenizer: ") as caught:
        prepare(tmp_path, cache_dir, str(model), tokenizer=where)
    assert "\n" not in str(caught.value)


def test_what_downloads_are_told(
    model: Path, tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []

    def download(repo: str, **options: Any) -> str:
        calls.append((repo, options["revision"], options["cache_dir"], options["token"]))
        return str(model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    hub = HubOptions("v1", tmp_path / "downloads", "hf_secret")
    assert "secret" not in repr(hub)
    more = {"tokenizer": "some/tokenizer", "tokenizer_revision": "v2"}
    prepare(tmp_path, cache_dir, "some/model", hub_options=hub, **more)
    prepare(tmp_path, cache_dir, "some/model@v3", hub_options=hub)
    assert calls == [
        ("some/model", "v1", hub.folder, "hf_secret"),
        ("some/tokenizer", "v2", hub.folder, "hf_secret"),
        ("some/model", "v3", hub.folder, "hf_secret"),
    ]


def test_a_revision_of_what_is_not_from_the_hub_is_said_to_change_nothing(
    model: Path, tmp_path: Path, cache_dir: Path
) -> None:
    lines: list[str] = []
    options = PrepareOptions(
        tmp_path / "text", cache_dir=cache_dir, hub_options=HubOptions(revision="main")
    )
    prepare_model(str(model), options, lines.append)
    assert [line for line in lines if line.startswith("--revision changes nothing: ")]
