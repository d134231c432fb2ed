"""Nothing that comes with a model or an adapter is executed, unless the operator says so.

CVE-2026-22807, CVE-2025-66448: code that a model's configuration names (auto_map) runs though no
one has trusted it, also where an inner configuration names it, or another repository's.
CVE-2026-27893: the same by a path that takes trust for granted.
CVE-2025-24357: weights are unpickled.

Each folder holds a canary: code that makes a file. No test passes while that file exists.
"""

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file

from headrace.launcher.models.model_folder import ModelError
from headrace.launcher.models.prepare_model import PreparedModel, PrepareOptions, prepare_model
from headrace.protocol.common.adapters import store_adapter
from headrace.protocol.config import EngineConfig
from headrace.workers.build import build_engine
from headrace.workers.errors import AdapterError, ModelUnsupported
from headrace.workers.lora.adapter_files import read_adapter
from headrace.workers.prepare.pickles import PickleError, convert_pickles
from tests.test_imports import modules
from tests.workers.tiny_models import save_tiny

OWN_CODE = {
    "AutoConfig": "own.OwnConfig",
    "AutoModel": "own.OwnModel",
    "AutoModelForCausalLM": "own.OwnModel",
    "AutoTokenizer": ["own.OwnTokenizer", None],
}
ELSEWHERE = dict.fromkeys(OWN_CODE, "stranger/repository--own.Own")

FORBIDDEN_MODULES = {
    "pickle", "_pickle", "cPickle", "cloudpickle", "dill", "shelve", "marshal", "joblib",
    "multiprocessing", "jsonpickle", "pickletools",
}  # fmt: skip
FORBIDDEN_BUILTINS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_CALLS = {
    "send_pyobj", "recv_pyobj", "send_serialized", "recv_serialized", "unsafe_load", "full_load",
    "load_pickle",
}  # fmt: skip


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._path, "w")


def faults(source: str) -> Iterator[str]:
    """Yield what a module imports or calls that could execute data."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if _root(each.name) in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom) and _root(node.module or "") in FORBIDDEN_MODULES:
            yield node.module or ""
        elif isinstance(node, ast.Call):
            yield from _call_faults(node)


def _root(name: str) -> str:
    return name.partition(".")[0]


def _call_faults(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    last = name.rpartition(".")[2]
    given = {each.arg: ast.unparse(each.value) for each in call.keywords}
    if last in FORBIDDEN_CALLS or name in FORBIDDEN_BUILTINS:
        yield name
    loads = name in ("torch.load", "torch.jit.load", "torch.hub.load")
    if loads and given.get("weights_only") != "True":
        yield f"{name} without weights_only"
    if name in ("yaml.load", "numpy.load", "np.load", "torch.serialization.load"):
        yield name
    if given.get("allow_pickle", "False") != "False":
        yield f"{name}(allow_pickle)"
    if given.get("trust_remote_code", "False") == "True":
        yield f"{name}(trust_remote_code=True)"


def test_no_module_executes_data() -> None:
    found = {
        name: list(faults(path.read_text(encoding="utf-8"))) for name, path in modules().items()
    }
    assert len(found) > 300
    assert {name: each for name, each in found.items() if each} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from multiprocessing import Queue",
        "def f():\n    import dill",
        "socket.send_pyobj(1)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "numpy.load(file, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "eval(text)",
    ],
)
def test_what_executes_data_is_found(source: str) -> None:
    assert list(faults(source))


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A path that no test leaves a file at, unless code was trusted."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "code of the model has run"


@pytest.fixture
def folder(tmp_path: Path, fake_model: Path, canary: Path) -> Path:
    """A model's folder with code in all places from which transformers may import some."""
    path = tmp_path / "model"
    shutil.copytree(fake_model, path)
    write_code(path, canary)
    return path


def write_code(folder: Path, canary: Path) -> None:
    code = f"open({str(canary)!r}, 'w').close()\n"
    names = ("own", "configuration_own", "modeling_own", "tokenization_own", "__init__", "conftest")
    for name in (*names, "custom_generate/generate", "handler", "processing_own", "setup"):
        file = folder / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(code)
    (folder / "custom_generate" / "requirements.txt").write_text("")


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.fixture
def prepare(tmp_path: Path, cache_dir: Path) -> Callable[..., PreparedModel]:
    def run(model: Path | str, **options: Any) -> PreparedModel:
        given = PrepareOptions(tmp_path / "text", cache_dir=cache_dir, **options)
        return prepare_model(str(model), given, lambda _: None)

    return run


_OWN_TYPE = {"auto_map": OWN_CODE, "model_type": "own"}


def test_poolers_may_name_no_code(folder: Path, prepare: Callable[..., PreparedModel]) -> None:
    """Those that transformers has, too, mostly differ from their authors' code."""
    change(folder / "config.json", auto_map=OWN_CODE, architectures=["BertModel"])
    with pytest.raises(ModelError, match=r"config\.json names code of its own \(auto_map\)"):
        prepare(folder)


def test_a_model_is_prepared_without_its_code(
    folder: Path, prepare: Callable[..., PreparedModel], canary: Path
) -> None:
    change(folder / "config.json", auto_map=OWN_CODE)
    change(folder / "tokenizer_config.json", auto_map=OWN_CODE, tokenizer_class="Own")
    info = prepare(folder).info
    assert info.vocab_size == 512
    assert info.added_tokens
    assert not canary.exists()


def test_code_of_a_tokenizer_without_another_is_refused(
    folder: Path, prepare: Callable[..., PreparedModel]
) -> None:
    change(folder / "tokenizer_config.json", auto_map=OWN_CODE)
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json names code of its own"):
        prepare(folder)


def test_code_from_the_hub_is_refused(
    folder: Path, prepare: Callable[..., PreparedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a snapshot holds the code because another program has fetched it."""
    change(folder / "config.json", **_OWN_TYPE)

    def download(repo: str, **options: Any) -> str:
        assert not {"*", "*.py", "*.bin"} & set(options["allow_patterns"])
        assert {"*.py", "*.bin"} <= set(options["ignore_patterns"])
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelError, match="names code of its own"):
        prepare("stranger/model")


def test_a_tokenizers_folder_is_checked_too(
    folder: Path, fake_model: Path, prepare: Callable[..., PreparedModel]
) -> None:
    change(folder / "tokenizer_config.json", auto_map=OWN_CODE)
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    with pytest.raises(ModelError, match="names code of its own"):
        prepare(fake_model, tokenizer=str(folder))


def test_code_that_nothing_names_is_left_alone(
    folder: Path, prepare: Callable[..., PreparedModel], canary: Path
) -> None:
    fields = {
        "trust_remote_code": True,
        "custom_generate": "custom_generate/generate.py",
        "custom_pipelines": {"a": {"impl": "own"}},
        "attn_implementation": "stranger/kernels",
        "_attn_implementation": "stranger/kernels",
        "use_kernels": True,
        "code_revision": "main",
        "_name_or_path": "stranger/model",
        "auto_map": {},
    }
    for name in ("config.json", "tokenizer_config.json"):
        change(folder / name, **fields)
    for name in ("processor_config.json", "preprocessor_config.json"):
        (folder / name).write_text(json.dumps({"auto_map": {"AutoProcessor": "own.Own"}}))
    assert prepare(folder).info.vocab_size == 512
    assert not canary.exists()


def test_an_adapters_folder_is_no_model(
    folder: Path, prepare: Callable[..., PreparedModel]
) -> None:
    """The model that it names could be anyone's, and a folder says it in a file of its own."""
    config = {"peft_type": "LORA", "base_model_name_or_path": "stranger/model"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="so that it is an adapter"):
        prepare(folder)


def test_workers_trust_no_launcher(tmp_path: Path, canary: Path) -> None:
    save_tiny(tmp_path / "tiny", "llama")
    write_code(tmp_path / "tiny", canary)
    file, lines = tmp_path / "tiny" / "config.json", list[str]()
    change(file, auto_map=OWN_CODE)
    config = EngineConfig(dtype="float32", kv_cache_bytes=2**20, max_model_len=64)
    build_engine(tmp_path / "tiny", config, 1, lines.append)
    assert lines[0] == "auto_map is ignored: transformers has LlamaForCausalLM"
    change(file, architectures=["OwnForCausalLM"])
    with pytest.raises(ModelUnsupported, match=r"auto_map.* transformers has no OwnForCausalLM"):
        build_engine(tmp_path / "tiny", config, 1, print)


def test_the_server_starts_nothing(folder: Path, tmp_path: Path, cache_dir: Path) -> None:
    change(folder / "config.json", **_OWN_TYPE)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "headrace", "serve", str(folder), "--port", "0"],
        env=os.environ | {"HEADRACE_CACHE": str(cache_dir), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    *_, line = done.stderr.splitlines()
    assert "names code of its own (auto_map), which is not run" in line


class TestPickledWeights:
    @pytest.fixture
    def pickled(self, tmp_path: Path, folder: Path) -> Path:
        (folder / "model.safetensors").unlink()
        return folder

    @pytest.mark.parametrize(
        "name", ["pytorch_model.bin", "model.pt", "weights.pth", "model.ckpt", "model.pkl"]
    )
    def test_they_are_refused_by_default(
        self, pickled: Path, prepare: Callable[..., PreparedModel], canary: Path, name: str
    ) -> None:
        (pickled / name).write_bytes(pickle.dumps(Canary(canary)))
        with pytest.raises(ModelError, match=f"only pickled weights \\({name}\\)") as caught:
            prepare(pickled)
        assert "--allow-pickle-weights" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_models_of_ctranslate2_are_told_apart(
        self,
        pickled: Path,
        prepare: Callable[..., PreparedModel],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (pickled / "model.bin").write_bytes(b"\6\0\0\0\x0c\0WhisperSpec\0")
        names = ["config.json", "model.bin", "tokenizer.json"]
        monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *_, **__: names)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(pickled))
        for model in (pickled, "some/model"):
            with pytest.raises(ModelError, match=r"convert_whisper.py") as caught:
                prepare(model)
            assert "\n" not in str(caught.value)

    def test_a_repository_that_has_no_others_says_so(
        self,
        pickled: Path,
        prepare: Callable[..., PreparedModel],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        names = ["config.json", "pytorch_model.bin", "original/consolidated.pt"]
        monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *_, **__: names)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(pickled))
        with pytest.raises(ModelError, match=r"some/model: has only pickled .*pytorch_model.bin"):
            prepare("some/model")

    def test_what_is_more_than_tensors_is_refused_though_they_are_allowed(
        self, pickled: Path, prepare: Callable[..., PreparedModel], canary: Path
    ) -> None:
        torch.save({"a": torch.ones(1), "b": [Canary(canary)]}, pickled / "pytorch_model.bin")
        with pytest.raises(ModelError, match=r"pytorch_model.bin holds more than tensors"):
            prepare(pickled, allow_pickle_weights=True)

    @pytest.mark.parametrize("kind", ["pickle", "torch", "legacy"])
    def test_no_form_of_pickle_runs(self, tmp_path: Path, canary: Path, kind: str) -> None:
        file = tmp_path / "pytorch_model.bin"
        if kind == "pickle":
            file.write_bytes(pickle.dumps(Canary(canary)))
        else:
            torch.save(Canary(canary), file, _use_new_zipfile_serialization=kind == "torch")
        with pytest.raises(PickleError, match=r"holds more than tensors"):
            convert_pickles(tmp_path, tmp_path)

    @pytest.mark.parametrize("shards", [1, 2])
    def test_tensors_are_converted(
        self, pickled: Path, prepare: Callable[..., PreparedModel], shards: int
    ) -> None:
        tensors = {f"layer{number}": torch.randn(3, 4) for number in range(4)}
        tensors["view"] = tensors["layer0"].t()
        if shards == 1:
            torch.save(tensors, pickled / "pytorch_model.bin")
        else:
            weight_map: dict[str, str] = {}
            for number in range(shards):
                name = f"pytorch_model-{number + 1:05}-of-00002.bin"
                part = {key: tensors[key] for key in sorted(tensors)[number::shards]}
                torch.save(part, pickled / name)
                weight_map |= dict.fromkeys(part, name)
            index = {"weight_map": weight_map}
            (pickled / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        prepared = prepare(pickled, allow_pickle_weights=True)
        found: dict[str, torch.Tensor] = {}
        for file in prepared.model_path.glob("*.safetensors"):
            found |= load_file(file)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)
        assert not list(prepared.model_path.glob("*.bin"))

    def test_an_index_leads_to_no_other_folder(
        self, pickled: Path, prepare: Callable[..., PreparedModel], tmp_path: Path
    ) -> None:
        torch.save({"a": torch.ones(1)}, tmp_path / "outside.bin")
        index = {"weight_map": {"a": "../outside.bin"}}
        (pickled / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        with pytest.raises(ModelError, match="no file of this folder"):
            prepare(pickled, allow_pickle_weights=True)

    def test_safetensors_go_first(
        self, folder: Path, prepare: Callable[..., PreparedModel], canary: Path
    ) -> None:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(canary)))
        assert prepare(folder, allow_pickle_weights=True).model_path == folder.absolute()


class TestAdapters:
    def test_neither_code_nor_pickles_are_read(self, tmp_path: Path, canary: Path) -> None:
        source, run_dir = tmp_path / "adapter", tmp_path / "run"
        source.mkdir()
        run_dir.mkdir()
        write_code(source, canary)
        config = {
            "peft_type": "LORA", "r": 8, "lora_alpha": 8, "auto_map": OWN_CODE,
            "auto_mapping": {"base_model_class": "Own", "parent_library": "own"},
            "trust_remote_code": True, "base_model_name_or_path": "stranger/model",
        }  # fmt: skip
        (source / "adapter_config.json").write_text(json.dumps(config))
        (source / "adapter_model.bin").write_bytes(pickle.dumps(Canary(canary)))
        (source / "adapter_model.safetensors").write_bytes(pickle.dumps(Canary(canary)))
        adapter_id = store_adapter(source, run_dir)
        (copy,) = (run_dir / "adapters").iterdir()
        assert copy.name == adapter_id
        assert {file.name for file in copy.iterdir()} == {
            "adapter_config.json",
            "adapter_model.safetensors",
        }
        with pytest.raises(AdapterError, match="is not a safetensors file"):
            read_adapter(copy, {}, 16)


OWN = """
import pathlib
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig

pathlib.Path({path!r}).touch()
"""


class TestTrustedCode:
    """With --trust-remote-code it is run: the flag says what it does."""

    def test_a_models_own_class_is_loaded(
        self,
        tmp_path: Path,
        fake_model: Path,
        prepare: Callable[..., PreparedModel],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
        folder, ran = tmp_path / "own", tmp_path / "ran"
        save_tiny(folder, "llama")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(fake_model / name, folder / name)
        (folder / "own.py").write_text(OWN.format(path=str(ran)))
        change(
            folder / "config.json",
            model_type="own",
            architectures=["OwnModel"],
            auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
        )
        with pytest.raises(ModelError, match="names code of its own"):
            prepare(folder)
        assert not ran.exists()
        assert prepare(folder, trust_remote_code=True).info.vocab_size == 200
        assert ran.exists()
        config = EngineConfig(
            dtype="float32", kv_cache_bytes=2**20, max_model_len=64, trust_remote_code=True
        )
        lines: list[str] = []
        build_engine(folder, config, 1, lines.append)
        assert lines[0].startswith("OwnModel in torch.float32")


def test_the_canary_sings(tmp_path: Path) -> None:
    """A guard of this module: what must not be executed does what the tests look for."""
    pickle.loads(pickle.dumps(Canary(tmp_path / "canary"))).close()
    assert (tmp_path / "canary").exists()
    write_code(tmp_path, tmp_path / "other")
    subprocess.run([sys.executable, str(tmp_path / "own.py")], check=True)
    assert (tmp_path / "other").exists()
    save_file({"a": np.zeros(1, np.float32)}, str(tmp_path / "a.safetensors"))
