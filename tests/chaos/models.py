"""What the pool serves: a tiny random model, or the fake engine with its tokenizer."""

import json
from pathlib import Path

from tests.conftest import CHAT_TEMPLATE, byte_level_tokenizer

SERVED_AS = "chaos"
# An adapter that is there from the start, and one that comes and goes.
ADAPTER, VISITOR = "adapter", "visitor"
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


def save_chaos_adapter(folder: Path, model: Path, engine: str) -> Path:
    """A random one for the attention of the tiny model; of the fake engine the configuration is
    enough."""
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    weights = folder / "adapter_model.safetensors"
    if engine == "fake":
        weights.write_bytes(b"")
        return folder
    import torch
    from safetensors.torch import save_file

    hidden = json.loads((model / "config.json").read_text())["hidden_size"]
    generator = torch.Generator().manual_seed(1)
    tensors = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{name}.weight": torch.randn(
            shape, generator=generator
        )
        for layer in range(2)
        for name, shape in (("A", (4, hidden)), ("B", (hidden, 4)))
    }
    save_file(tensors, weights)
    return folder


def model_flags(folder: Path, engine: str) -> list[str]:
    """engine: "tiny" computes; "fake" computes nothing and takes 5 ms for each step."""
    fake = ["--engine", "fake", "--fake-step-s", "0.005"]
    real = ["--dtype", "float32", "--threads", "1", "--kv-cache-memory-bytes", "16MiB"]
    served = ["--model", str(folder), "--served-model-name", SERVED_AS]
    return [*served, *(fake if engine == "fake" else real)]
