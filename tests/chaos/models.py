"""What the pool serves: a tiny random model, or the fake engine with its tokenizer."""

import json
from pathlib import Path

from tests.conftest import CHAT_TEMPLATE, byte_level_tokenizer

SERVED_AS = "chaos"
_SIZES = {"vocab_size": 512, "max_position_embeddings": 2048, "eos_token_id": 2}
_TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "unk_token": "<|endoftext|>",
    "chat_template": CHAT_TEMPLATE,
}


def save_chaos_model(folder: Path) -> Path:
    """A random Llama of two layers that steps in a millisecond. Imports torch."""
    from tests.workers.tiny_models import MODELS, save_model

    config_name, class_name, options = MODELS["llama"]
    save_model(folder, config_name, class_name, options | _SIZES)
    byte_level_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(_TOKENIZER))
    return folder


def model_flags(folder: Path, engine: str) -> list[str]:
    """engine: "tiny" computes; "fake" computes nothing and takes 5 ms for each step."""
    fake = ["--engine", "fake", "--fake-step-s", "0.005"]
    real = ["--dtype", "float32", "--threads", "1", "--kv-cache-memory-bytes", "16MiB"]
    served = ["--model", str(folder), "--served-model-name", SERVED_AS]
    return [*served, *(fake if engine == "fake" else real)]
