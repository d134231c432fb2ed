"""Make models of random weights, count what their steps must move and compute, measure ceilings."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM

# hidden, intermediate, layers, heads, K/V heads, vocabulary, embedding shared with the head
SHAPES = {
    "tiny": (64, 128, 2, 4, 2, 500, False),
    "1B": (2048, 8192, 16, 32, 8, 128_256, True),
    "8B": (4096, 14_336, 32, 32, 8, 128_256, False),
}
_REPEATS = 10


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The rates of the device: bytes and floating-point operations per second."""

    bytes_per_s: float
    flops_per_s: float


def make_model(shape: str, max_length: int, device: torch.device) -> LlamaForCausalLM:
    """Return a Llama of that shape in bfloat16, with random weights from a fixed seed."""
    hidden, intermediate, layers, heads, kv_heads, vocab, tied = SHAPES[shape]
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocab,
        max_position_embeddings=max_length,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    torch.nn.Module.to(model, device, torch.bfloat16)
    torch.nn.Module.eval(model)
    return model.requires_grad_(False)


def decode_bytes(model: LlamaForCausalLM, batch: int, context: float) -> float:
    """Return the bytes that a decode step reads: all matrices once, and the keys and values."""
    return _weight_bytes(model) + batch * context * kv_bytes(model)


def prefill_flops(model: LlamaForCausalLM, batch: int, prompt: int) -> float:
    """Return the operations of a prefill.

    Two for each weight and token, the head for one row of each prompt, and attention.
    """
    config = model.config
    head = config.vocab_size * config.hidden_size
    weights = _weight_bytes(model) // 2 - head
    pairs = prompt * (prompt + 1) / 2
    attention = 4 * config.num_hidden_layers * config.hidden_size * pairs
    return batch * (2 * weights * prompt + 2 * head + attention)


def kv_bytes(model: LlamaForCausalLM) -> int:
    """Return the bytes of one token's keys and values in all layers."""
    config = model.config
    heads = config.num_attention_heads
    kv_heads = config.num_key_value_heads or heads
    dim = config.hidden_size // heads
    return 2 * 2 * config.num_hidden_layers * kv_heads * dim


def _weight_bytes(model: LlamaForCausalLM) -> int:
    """Return the bytes that every step reads: the embedding only counts if it is the head, too."""
    linears = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)]
    return sum(weight.numel() * weight.element_size() for weight in linears)


def measure_ceilings(device: torch.device) -> Ceilings:
    """Measure the ceilings by a large copy and a large product of random numbers."""
    size, side = (2**32, 8192) if device.type == "cuda" else (2**24, 256)
    return Ceilings(_copy_rate(size, device), _product_rate(side, device))


def _copy_rate(size: int, device: torch.device) -> float:
    """Return the bytes read and written per second."""
    source = torch.empty(size, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    return 2 * size / median_s(lambda: target.copy_(source), device)


def _product_rate(side: int, device: torch.device) -> float:
    left = torch.randn((side, side), dtype=torch.bfloat16, device=device)
    right = torch.randn((side, side), dtype=torch.bfloat16, device=device)
    return 2 * side**3 / median_s(lambda: left @ right, device)


def median_s(function: Callable[[], object], device: torch.device) -> float:
    """Return the median seconds of a call, with its work on the device."""
    times = []
    for _ in range(_REPEATS + 2):
        synchronize(device)
        started = time.perf_counter()
        function()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def synchronize(device: torch.device) -> None:
    """Wait for the work on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
