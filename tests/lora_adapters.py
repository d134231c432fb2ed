"""LoRA adapters for tests, made by PEFT over a model folder."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

# GPT-2's and Llama's: where linear layers are that adapters are usually made for.
ATTENTION = {"gpt2": ["c_attn", "c_proj"]}
USUAL = ["q_proj", "v_proj"]


def make_adapter(
    folder: Path,
    model_path: Path,
    *,
    rank: int = 8,
    seed: int = 0,
    targets: list[str] | str | None = None,
    **config: Any,
) -> Path:
    """Write a random adapter for a model's folder, the same one for each seed; the folder.

    targets: the layers' names, or their ends; None: query and value. config: more of LoraConfig.
    """
    model = _base(model_path)
    if targets is None:
        targets = ATTENTION.get(model.config.model_type, USUAL)
    torch.manual_seed(seed)
    options = {"lora_alpha": 2 * rank, "init_lora_weights": False, **config}
    settings = LoraConfig(r=rank, target_modules=targets, task_type="CAUSAL_LM", **options)
    with _without_warnings():
        get_peft_model(model, settings).save_pretrained(str(folder))
    return folder


def make_converted_adapter(folder: Path, model_path: Path, kind: str) -> Path:
    """Write an adapter whose kind changes its base, after PEFT has converted it to a plain one."""
    model = _base(model_path)
    torch.manual_seed(0)
    initialized: Any = {"init_lora_weights": kind}  # PEFT's types do not name every number of steps
    settings = LoraConfig(r=8, target_modules=USUAL, task_type="CAUSAL_LM", **initialized)
    initial = folder.with_name(f"{folder.name}-initial")
    with _without_warnings():
        adapted = get_peft_model(model, settings)
        used = cast(LoraConfig, adapted.peft_config["default"])
        used.init_lora_weights = True
        adapted.save_pretrained(str(initial))
        used.init_lora_weights = initialized["init_lora_weights"]
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        adapted.save_pretrained(str(folder), path_initial_model_for_weight_conversion=str(initial))
    return folder


def load_with_adapter(model_path: Path, folder: Path | None) -> Any:
    """The model as PEFT runs it with an adapter, in float32; None: the base model."""
    base = _base(model_path)
    with _without_warnings():
        return (base if folder is None else PeftModel.from_pretrained(base, folder)).eval()


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """An adapter's tensors by their names."""
    return load_file(folder / "adapter_model.safetensors")


@contextmanager
def _without_warnings() -> Iterator[None]:
    """PEFT asks transformers for what is to be renamed, and looks for GPT-2's layers otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _base(model_path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        model_path, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
