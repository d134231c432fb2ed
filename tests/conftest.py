"""Models that tests share. Nothing here needs torch."""

import gc
import importlib.util
import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.speech_models import find_whisper

_BENCH = Path(__file__).parents[1] / "bench"


def _load_bench() -> None:
    """Make `bench` importable though the repository root must not be on the path."""
    spec = importlib.util.spec_from_file_location(
        "bench", _BENCH / "__init__.py", submodule_search_locations=[str(_BENCH)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["bench"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


_load_bench()

# An example may take any time: how long depends on what else the machine does.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# What a shell runs in the background ignores Ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Let the garbage collector leave out what lasts: modules and the tests themselves.

    Workers collect when they free memory: all that would be a third of a second each time.
    """
    gc.collect()
    gc.freeze()


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_level_tokenizer(vocab_size: int = 512) -> Tokenizer:
    """A byte-level BPE, as GPT-2's: every string can be encoded and decoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = ["the quick brown fox jumps over the lazy dog", "user assistant system Paris über 你好"]
    tokenizer.train_from_iterator(text * 4, trainer)
    return tokenizer


@pytest.fixture(scope="session")
def fake_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder for the fake engine: a real tokenizer, and weights that nobody reads."""
    folder = tmp_path_factory.mktemp("models") / "fake"
    folder.mkdir()
    byte_level_tokenizer().save(str(folder / "tokenizer.json"))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 512,
        "max_position_embeddings": 2048,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    save_file({"none": np.zeros(1, np.float32)}, str(folder / "model.safetensors"))
    return folder


@pytest.fixture(scope="session")
def whisper_tiny_en(pytestconfig: pytest.Config) -> Path:
    """The folder of Whisper's tiny.en, which knows English alone."""
    assert pytestconfig.cache
    return find_whisper("tiny.en", pytestconfig.cache)


@pytest.fixture(scope="session")
def whisper_base(pytestconfig: pytest.Config) -> Path:
    """The folder of Whisper's base, which knows many languages and translates."""
    assert pytestconfig.cache
    return find_whisper("base", pytestconfig.cache)
