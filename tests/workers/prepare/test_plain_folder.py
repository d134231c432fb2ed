"""Folders whose configurations name code are read without it, where transformers has the class."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from headrace.workers.prepare.plain_folder import NeedsCodeError, plain_folder

OWN_CODE = {
    "AutoConfig": "own.OwnConfig",
    "AutoModelForCausalLM": "own.OwnModel",
    "AutoTokenizer": ["own.OwnTokenizer", None],
}
ELSEWHERE = dict.fromkeys(OWN_CODE, "stranger/repository--own.Own")


@pytest.fixture
def folder(tmp_path: Path, fake_model: Path) -> Path:
    path = tmp_path / "model"
    shutil.copytree(fake_model, path)
    (path / "own.py").write_text("raise AssertionError")
    return path


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


_OWN_TYPE = {"auto_map": OWN_CODE, "model_type": "own"}
_OWN_ARCHITECTURE = {"auto_map": OWN_CODE, "architectures": ["OwnForCausalLM"]}
# What only the code of the folder does.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "config of an unknown type": ("config.json", _OWN_TYPE),
    "of another repository": ("config.json", {"auto_map": ELSEWHERE, "model_type": "own"}),
    "of an unknown class": ("config.json", _OWN_ARCHITECTURE),
    "of a module": ("config.json", {"auto_map": OWN_CODE, "architectures": ["models"]}),
    "of no class": ("config.json", {"auto_map": OWN_CODE, "architectures": [{}]}),
    "trusting itself": ("config.json", {**_OWN_TYPE, "trust_remote_code": True}),
}
# What transformers has of its own.
IGNORED: dict[str, tuple[str, dict[str, Any]]] = {
    "config": ("config.json", {"auto_map": OWN_CODE}),
    "elsewhere": ("config.json", {"auto_map": ELSEWHERE}),
    "inner": ("config.json", {"text_config": {"model_type": "llama", "auto_map": ELSEWHERE}}),
    "inner of inner": ("config.json", {"vision_config": {"a": [{"auto_map": OWN_CODE}]}}),
    "trusting itself": ("config.json", {"auto_map": OWN_CODE, "trust_remote_code": True}),
    "tokenizer": ("tokenizer_config.json", {"auto_map": OWN_CODE, "trust_remote_code": True}),
    "tokenizer's class": (
        "tokenizer_config.json",
        {
            "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", "own.OwnFast"]},
            "tokenizer_class": "Own",
        },
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_code_that_a_configuration_names_is_refused(folder: Path, case: str) -> None:
    name, fields = CONFIGS[case]
    change(folder / name, **fields)
    match = rf"{name} names code of its own \(auto_map\)"
    with pytest.raises(NeedsCodeError, match=match) as caught, plain_folder(folder):
        pass
    assert "\n" not in str(caught.value)
    assert "--trust-remote-code" in str(caught.value)


@pytest.mark.parametrize("case", IGNORED)
def test_code_beside_a_class_of_transformers_is_ignored(folder: Path, case: str) -> None:
    name, fields = IGNORED[case]
    change(folder / name, **fields)
    with plain_folder(folder) as plain:
        assert plain != folder
        assert not list(plain.glob("*.py"))
        assert "auto_map" not in (plain / "config.json").read_text()
        assert "auto_map" not in (plain / "tokenizer_config.json").read_text()
        text = (plain / "tokenizer_config.json").read_text()
        assert json.loads(text)["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not plain.exists()


def test_a_folder_that_names_none_is_read_as_it_is(folder: Path) -> None:
    with plain_folder(folder) as plain:
        assert plain == folder


def test_a_type_of_another_name_is_read_as_the_one_that_transformers_knows(folder: Path) -> None:
    fields = {"model_type": "kimi_k2", "architectures": ["DeepseekV3ForCausalLM"]}
    change(folder / "config.json", auto_map=OWN_CODE, **fields)
    with plain_folder(folder) as plain:
        config = json.loads((plain / "config.json").read_text())
    assert config["model_type"] == "deepseek_v3"
    assert "auto_map" not in config
