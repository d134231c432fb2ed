"""Replace a loaded model's linear layers by faster ones that compute the same.

The pass knows no architectures. It watches one forward pass of some tokens, replaces the layers
that were called, and fuses those that read the same tensor (headrace.workers.linear.fusion). Tied
embeddings keep their weight; the original weight of every other layer is freed.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from headrace.protocol.config import EngineConfig
from headrace.workers.attention.hook import attention_of, vocab_rows
from headrace.workers.errors import ModelUnsupported
from headrace.workers.linear.fusion import FusedProduct, find_groups, strided_outputs, watch
from headrace.workers.linear.products import Product, make_product
from headrace.workers.linear.rounded_weights import head_quantization
from headrace.workers.linear.row_counts import round_other_products
from headrace.workers.native.weight_format import UNUSED_QUANTIZATION
from headrace.workers.quantized.parameter import was_in_blocks
from headrace.workers.torch_runner.loading import model_length
from headrace.workers.torch_runner.self_check import computes_nan

_PROBE_TOKENS = 16
_MIN_OUTPUTS = 16  # smaller layers are gates: cheap, and their decisions should be exact
# Root mean square of the logits' change over their spread, at the median token.
_EXACT_TOLERANCE = 1e-3
_ROUNDED_TOLERANCE = 0.15
_QUANTIZED_TOLERANCE = 0.6


class FastLinear(nn.Module):
    """One layer of a fused product, replacing a linear layer with weight [N, K]."""

    def __init__(self, siblings: FusedProduct, number: int, like: Tensor) -> None:
        super().__init__()
        self.out_features, self.in_features = like.shape
        self._siblings = siblings
        self._number = number
        # Models read the weight's dtype and device. A model that computes with it gets NaN.
        self._weight = like.new_full((), float("nan")).expand(like.shape)

    @property
    def weight(self) -> Tensor:
        """A placeholder with the dtype, device and shape [N, K] of the weight, without values."""
        return self._weight

    def forward(self, input: Tensor) -> Tensor:
        """Compute [..., K] → [..., N]; the result may have gaps between its rows."""
        return self._siblings.share_of(self._number, input)


class StandaloneFastLinear(FastLinear):
    """A linear layer with a product of its own."""

    def __init__(self, product: Product, like: Tensor) -> None:
        super().__init__(FusedProduct(product, [like.shape[0]]), 0, like)
        self._product = product

    def forward(self, input: Tensor) -> Tensor:
        """Compute [..., K] → [..., N]."""
        return self._product(input)


def prepare_linears(
    model: PreTrainedModel, config: EngineConfig, log: Callable[[str], None]
) -> None:
    """Replace the model's linear layers by packed, fused and, if configured, quantized ones.

    Does nothing on devices other than CPUs. Raises ModelUnsupported if quantization is configured
    for such a device, or if the model's logits change by more than rounding.
    """
    if model.device.type != "cpu":
        if config.quantization is not None:
            raise ModelUnsupported(
                f"quantization is {config.quantization}, which needs device cpu, "
                f"not {model.device.type}"
            )
        return
    layers = [module for module in model.modules() if _is_replaceable(module)]
    with torch.no_grad(), attention_of(model, "eager"):
        with watch(layers) as calls:
            before = _logits(model)
        groups = find_groups(calls, _weight_kind)
        del calls, layers  # so that each weight is freed when it is replaced
        if not _accepts_strided_outputs(model, groups):
            groups = [[layer] for group in groups for layer in group]
        _replace(model, groups, config.quantization, log)
        round_other_products(model, (FastLinear,))
        _check(model, before, _logits(model), config.quantization)


def _is_replaceable(module: nn.Module) -> bool:
    """Return whether a module is a plain linear layer: not a subclass, without hooks that would be
    lost, not a small gate."""
    if type(module) not in (nn.Linear, Conv1D):
        return False
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    return len(_weight(module)) >= _MIN_OUTPUTS


def _weight_kind(layer: nn.Module) -> tuple[int, torch.dtype, bool]:
    weight = _weight(layer)
    return weight.shape[1], weight.dtype, _is_rounded(layer)


def _is_rounded(layer: nn.Module) -> bool:
    """Return whether a layer's weight had been quantized, so that doing it again only loses."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return was_in_blocks(weight)


def _weight(layer: nn.Module) -> Tensor:
    """Return the layer's weight as [N, K]."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.t() if isinstance(layer, Conv1D) else weight


def _logits(model: PreTrainedModel) -> Tensor:
    """Compute the logits [tokens, vocabulary] of random tokens."""
    count = min(_PROBE_TOKENS, model_length(model, _PROBE_TOKENS))
    token_ids = torch.randint(
        vocab_rows(model), (1, count), generator=torch.Generator().manual_seed(0)
    )
    logits: Tensor = model(input_ids=token_ids, use_cache=False).logits[0]
    return logits


def _accepts_strided_outputs(model: PreTrainedModel, groups: list[list[nn.Module]]) -> bool:
    """Return whether the model accepts outputs with gaps between rows (`view` may reject them)."""
    with strided_outputs(layer for group in groups if len(group) > 1 for layer in group):
        try:
            _logits(model)
        except RuntimeError:
            return False
    return True


def _replace(
    model: PreTrainedModel,
    groups: list[list[nn.Module]],
    quantization: str | None,
    log: Callable[[str], None],
) -> None:
    parents = _parents(model)
    total = sum(weight.nbytes for weight in model.parameters())
    if quantization is not None and all(_is_rounded(layer) for group in groups for layer in group):
        log(UNUSED_QUANTIZATION.format(quantization))
        quantization = None
    num_replaced = old_bytes = new_bytes = 0
    while groups:
        group = groups.pop()
        is_head = model.get_output_embeddings() in group  # type: ignore[no-untyped-call]
        kind = head_quantization(quantization) if is_head else quantization
        kind = None if _is_rounded(group[0]) else kind
        try:
            product = make_product(*_concatenated(group), kind)
        except ValueError as error:
            raise ModelUnsupported(f"quantization is {quantization}, but {error}") from error
        if product is None:
            continue
        num_replaced += len(group)
        old_bytes += sum(_weight(layer).nbytes for layer in group)
        new_bytes += product.nbytes
        for layer, fast in zip(group, _fast_layers(group, product), strict=True):
            for parent, name in parents[layer]:
                setattr(parent, name, fast)
            del parents[layer]
        del group, layer
    if num_replaced:
        log(
            f"{num_replaced} linear layers {quantization or 'packed'}: "
            f"{old_bytes >> 20} of {total >> 20} MiB of weights, now {new_bytes >> 20}"
        )


def _parents(model: nn.Module) -> dict[nn.Module, list[tuple[nn.Module, str]]]:
    """Return the parents of each module, with its name in each parent."""
    parents: dict[nn.Module, list[tuple[nn.Module, str]]] = {}
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is not None:
                parents.setdefault(child, []).append((parent, name))
    return parents


def _concatenated(group: list[nn.Module]) -> tuple[Tensor, Tensor | None]:
    """Concatenate the group's weights and biases; a missing bias becomes zeros."""
    weights = [_weight(layer) for layer in group]
    biases = [layer.bias for layer in group]
    weight = torch.cat(weights) if len(group) > 1 else weights[0]
    if all(bias is None for bias in biases):
        return weight, None
    return weight, torch.cat(
        [
            bias.detach() if isinstance(bias, Tensor) else weight.new_zeros(len(own))
            for bias, own in zip(biases, weights, strict=True)
        ]
    )


def _fast_layers(group: list[nn.Module], product: Product) -> list[FastLinear]:
    weights = [_weight(layer) for layer in group]
    if len(group) == 1:
        return [StandaloneFastLinear(product, weights[0])]
    siblings = FusedProduct(product, [len(weight) for weight in weights])
    return [FastLinear(siblings, number, weight) for number, weight in enumerate(weights)]


def _check(model: PreTrainedModel, before: Tensor, after: Tensor, quantization: str | None) -> None:
    """Check the logits [tokens, vocabulary]; raises ModelUnsupported for more than rounding."""
    change = (after.float() - before.float()).square().mean(dim=1).sqrt()
    share = float((change / before.float().std(dim=1)).median())
    tolerance = _EXACT_TOLERANCE if model.dtype == torch.float32 else _ROUNDED_TOLERANCE
    if share != share:
        raise ModelUnsupported(computes_nan(model))
    if not share <= (_QUANTIZED_TOLERANCE if quantization else tolerance):
        raise ModelUnsupported(
            f"{type(model).__name__} generates different text with "
            f"{quantization or 'packed'} weights (logits change by {share:.2g} of their spread)"
        )
