"""The forward passes of a Whisper model, each on rows that a program can compute one by one.

The encoder's two convolutions see three neighbouring positions each: they are products of rows that
overlap. The layers are transformers' own.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from headrace.workers.attention.hook import AttentionHook
from headrace.workers.native.capturing.forward_pass import PassInputs
from headrace.workers.program_cache.weight_files import product_weight


class SourceStore(Protocol):
    """Keeps what an encoder makes for a decoder's layers."""

    def store(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Keep keys [positions, heads, dim] and values of a layer."""
        ...


class WhisperPasses(nn.Module):
    """A model, and what its encoder's convolutions are as products.

    width: numbers of a row of features for `stem`: three positions of all mel bins.
    """

    def __init__(self, model: Any, hook: AttentionHook) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        self._hook = hook
        encoder = model.model.encoder
        self.first, self.second = _product_of(encoder.conv1), _product_of(encoder.conv2)
        self.width = self.first.in_features

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.first.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the model's weights."""
        return self.first.weight.dtype

    def stem(self, inputs: PassInputs) -> Tensor:
        """Compute the first convolution of windows of features [1, positions, 3 * mel bins]."""
        return functional.gelu(self.first(inputs.features))

    def listen(self, inputs: PassInputs) -> Tensor:
        """Compute the encoder's vectors [1, positions, size].

        inputs: its features are three positions of the first convolution's each.
        """
        encoder = self.model.model.encoder
        hidden = functional.gelu(self.second(inputs.features))
        hidden = hidden + encoder.embed_positions(inputs.positions)
        for layer in encoder.layers:
            hidden = layer(hidden, None)
        vectors: Tensor = encoder.layer_norm(hidden)
        return vectors

    def encode(self, inputs: PassInputs) -> None:
        """Compute the keys and values of the decoder's layers, which the hook's backend stores."""
        hidden = self.listen(inputs)
        keeper: Any = self._hook.backend
        for layer in self.model.model.decoder.layers:
            attention = layer.encoder_attn
            shape = (hidden.shape[1], -1, attention.head_dim)
            key, value = (linear(hidden) for linear in (attention.k_proj, attention.v_proj))
            keeper.store(self._hook.number_of(attention), key.view(shape), value.view(shape))

    def decode(self, inputs: PassInputs) -> Tensor:
        """Compute the logits of some rows."""
        hidden = self.model.model.decoder(
            input_ids=inputs.token_ids,
            position_ids=inputs.positions,
            encoder_hidden_states=inputs.source,
            use_cache=False,
        ).last_hidden_state
        logits: Tensor = self.model.proj_out(hidden[:, inputs.logit_rows])
        return logits

    def probe(self) -> None:
        """Let the hook learn the layers of both halves."""
        self._hook.probe(self.model, self._run_both)

    def _run_both(self, token_ids: Tensor) -> None:
        vectors = torch.zeros((1, 2, self.config.d_model), dtype=self.dtype, device=self.device)
        for layer in self.model.model.encoder.layers:
            layer(vectors, None)
        self.decode(PassInputs(token_ids, token_ids, token_ids, token_ids[0], source=vectors))

    def scored_heads(self, heads: list[tuple[int, int]]) -> dict[int, tuple[int, ...]]:
        """Return where the scores of each head of a layer are among those of some heads.

        heads: the number of a decoder's layer, and of its head.
        """
        count = self.config.decoder_attention_heads
        scored: dict[int, list[int]] = {}
        for place, (number, head) in enumerate(heads):
            attention = self.model.model.decoder.layers[number].encoder_attn
            layer = self._hook.number_of(attention)
            scored.setdefault(layer, [-1] * count)[head] = place
        return {layer: tuple(places) for layer, places in scored.items()}


def _product_of(convolution: nn.Conv1d) -> nn.Linear:
    """Return a convolution as a product of three positions, one after another, in a row."""
    weight = convolution.weight  # [outputs, inputs, 3]
    with torch.device("meta"):
        product = nn.Linear(weight.shape[1] * weight.shape[2], weight.shape[0])
    product.weight = nn.Parameter(product_weight(weight.detach()), requires_grad=False)
    assert convolution.bias is not None
    product.bias = nn.Parameter(convolution.bias.detach(), requires_grad=False)
    product.is_exact = True  # type: ignore[assignment]  # never rounded to 8 bits
    return product
