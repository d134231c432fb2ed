"""Run a model that transcribes on torch's operations, on any device."""

import math
from itertools import chain

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from headrace.workers.attention.backend import AttentionBatch, AttentionOptions, Span
from headrace.workers.attention.cache_dtype import CacheDtype, choose_cache_dtype, token_bytes
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.attention.sdpa import SdpaBackend
from headrace.workers.native.capturing.forward_pass import PassInputs
from headrace.workers.speech.backing import DecoderRows, SpeechFacts
from headrace.workers.speech.passes import WhisperPasses
from headrace.workers.speech.self_check import stem_rows
from headrace.workers.transfers import upload

_KeyValue = tuple[Tensor, Tensor]


class _SourceBackend:
    """Attention of both halves: an encoder's layers to all rows of a step, a decoder's to the paged
    cache, or to what was stored in its sequence's slot.

    scored: by layer, the place of each head's scores.
    """

    def __init__(
        self, own: SdpaBackend, numbers: dict[int, int], scored: dict[int, tuple[int, ...]]
    ) -> None:
        self._own, self._numbers, self._scored = own, numbers, scored
        self.slots: dict[int, dict[int, _KeyValue]] = {}
        self.filling = 0
        self._spans: list[tuple[Span, int]] = []
        self.scores: Tensor | None = None

    def prepare_rows(self, batch: AttentionBatch, slots: list[int], scores: Tensor | None) -> None:
        """Prepare a step of the decoder."""
        self._own.prepare(batch)
        self._spans = list(zip([*batch.decodes, *batch.prefills], slots, strict=True))
        self.scores = scores

    def prepare(self, batch: AttentionBatch) -> None:
        self._own.prepare(batch)

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        if layer in self._numbers:
            self._own.write(self._numbers[layer], key, value)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions
    ) -> Tensor:
        if options.reads_source:
            return self._attend_sources(layer, query, options)
        if layer in self._numbers:
            return self._own.attend(self._numbers[layer], query, key, value, options)
        return _attend(query, key, value, options.scaling)

    def store(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Keep a layer's keys [positions, heads, dim] and values in the slot that is filled."""
        self.slots.setdefault(self.filling, {})[layer] = (key, value)

    def _attend_sources(self, layer: int, query: Tensor, options: AttentionOptions) -> Tensor:
        outputs = torch.empty_like(query)
        for span, slot in self._spans:
            rows = slice(span.first_row, span.first_row + span.num_rows)
            key, value = self.slots[slot][layer]
            outputs[rows] = _attend(query[rows], key, value, options.scaling)
            for head, place in enumerate(self._scored.get(layer, ())):
                if self.scores is not None and place >= 0:
                    found = query[rows, head] @ key[:, head].t()
                    self.scores[place, rows, : len(key)] = found * options.scaling / math.log(2.0)
        return outputs


def _attend(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Attend with query [rows, heads, dim] to all keys [positions, heads, dim]."""
    q, k, v = (each.transpose(0, 1).unsqueeze(0) for each in (query, key, value))
    return scaled_dot_product_attention(q, k, v, scale=scaling)[0].transpose(0, 1)


class TorchSpeech:
    """transformers' layers with caches; see headrace.workers.speech.backing.SpeechBacking."""

    def __init__(
        self,
        passes: WhisperPasses,
        hook: AttentionHook,
        facts: SpeechFacts,
        block_size: int,
        cache_dtype: CacheDtype | None = None,
    ) -> None:
        self._passes, self._hook, self._facts = passes, hook, facts
        self._block_size = block_size
        self._cache_dtype = cache_dtype or choose_cache_dtype("auto", passes.dtype)
        self._num_blocks = 0
        self._backend: _SourceBackend | None = None
        self._is_offloaded = False
        causal = [n for n, options in enumerate(hook.options) if options.is_causal]
        self._numbers = {number: place for place, number in enumerate(causal)}
        self._own_layers = [hook.layers[number] for number in causal]

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._weights())

    @property
    def cache_bytes(self) -> int:
        if self._backend is None:
            return 0
        own = self._num_blocks * self._block_size * token_bytes(self._own_layers, self._cache_dtype)
        stored = chain(*(layers.values() for layers in self._backend.slots.values()))
        return own + sum(key.nbytes + value.nbytes for key, value in stored)

    @property
    def cache_dtype(self) -> str:
        return self._cache_dtype

    def start(self, num_blocks: int, num_slots: int) -> None:
        if self._backend is None:
            self._num_blocks = num_blocks
            passes = self._passes
            own = SdpaBackend(
                self._own_layers, num_blocks, self._block_size, passes.dtype, passes.device,
                self._cache_dtype,
            )  # fmt: skip
            scored = passes.scored_heads(list(self._facts.heads))
            self._backend = _SourceBackend(own, self._numbers, scored)
            self._hook.backend = self._backend

    def stop(self) -> None:
        self._backend = self._hook.backend = None

    def _weights(self) -> "chain[Tensor]":
        return chain(self._passes.parameters(), self._passes.buffers())

    def offload_weights(self) -> None:
        if self._passes.device.type == "cpu" or self._is_offloaded:
            return
        for tensor in self._weights():
            tensor.data = tensor.data.cpu()
        self._is_offloaded = True

    def restore_weights(self) -> None:
        if not self._is_offloaded:
            return
        for tensor in self._weights():
            tensor.data = tensor.data.to("cuda")
        self._is_offloaded = False

    @torch.inference_mode()
    def encode(self, features: Tensor, slot: int) -> None:
        backend = self._started
        backend.filling = slot
        backend.slots.pop(slot, None)
        passes = self._passes
        passes.encode(stem_rows(passes, features.to(passes.device, passes.dtype)))

    @torch.inference_mode()
    def decode(self, rows: DecoderRows) -> tuple[Tensor, Tensor | None]:
        device = self._passes.device
        scores = None
        if rows.wants_scores:
            shape = (len(self._facts.heads), len(rows.token_ids), self._facts.positions)
            scores = torch.full(shape, float("-inf"), device=device)
        self._started.prepare_rows(rows.batch, list(rows.slots), scores)
        ids = upload([rows.token_ids, rows.positions], torch.long, device)
        wanted = upload(rows.wanted, torch.long, device)
        # The encoder's vectors are not read: what layers attend to is in the slots.
        nothing = torch.zeros((1, 1, self._facts.size), dtype=self._passes.dtype, device=device)
        inputs = PassInputs(ids[:1], ids[1:], ids[:1], wanted, source=nothing)
        logits = self._passes.decode(inputs)[0, :, : self._facts.vocab_size]
        return logits, None if scores is None else scores.cpu()

    @property
    def _started(self) -> _SourceBackend:
        if self._backend is None:
            raise RuntimeError("the cache has been released")
        return self._backend
