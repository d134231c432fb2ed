"""Read a GGUF file's metadata of its architecture, and note what was read.

What nobody has read at the end would be left out of the model without a word.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from headrace.workers.prepare.gguf_header import GGUFError, GGUFHeader, GGUFTensor

# What changes no result, or only repeats what the tensors tell.
_HARMLESS = {
    "vocab_size", "rope.scaling.finetuned", "rope.dimension_sections", "pooling_type",
    "tensor_data_layout", "n_deepstack_layers", "deepstack_mapping", "full_attention_interval",
    "attention.recurrent_layers", "features_length", "classifier.output_labels",
    "feed_forward_length", "context_length", "interleave_moe_layer_step",
    "expert_shared_feed_forward_length", "expert_shared_count", "expert_count",
    "attention.head_count_kv", "attention.value_length", "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
}  # fmt: skip


class ModelFacts:
    """Metadata by keys without the architecture's name, and tensors by name."""

    def __init__(self, headers: Sequence[GGUFHeader]) -> None:
        self.architecture = headers[0].architecture
        self.metadata = headers[0].metadata
        self.tensors = {tensor.name: tensor for each in headers for tensor in each.tensors}
        self._read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, or the default if the file has none."""
        self._read.add(key)
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def need(self, key: str) -> Any:
        """Return a value. Raises GGUFError if the file has none."""
        value = self.get(key)
        if value is None:
            raise GGUFError(f"has no {self.architecture}.{key}")
        return value

    def same(self, key: str, default: Any = None) -> Any:
        """Return a value that a file may give for each layer.

        Raises GGUFError if layers differ: they do in models that are built for it only.
        """
        value = self.get(key, default)
        if not isinstance(value, tuple):
            return value
        found = {each for each in value[: self.layers] if each}
        if len(found) > 1:
            raise GGUFError(f"{self.architecture}.{key} differs from layer to layer")
        return found.pop() if found else default

    def each(self, key: str, default: Any) -> list[Any]:
        """Return a value for each layer."""
        value = self.get(key, default)
        return list(value[: self.layers]) if isinstance(value, tuple) else [value] * self.layers

    @property
    def layers(self) -> int:
        """The number of layers, without those that only predict further tokens."""
        return int(self.need("block_count")) - int(self.get("nextn_predict_layers", 0) or 0)

    def has(self, name: str) -> bool:
        """Return whether a tensor is there: by its name, or in any layer by that without blk.N."""
        return bool(self.tensors.get(name)) or any(self.layers_with(name))

    def layers_with(self, name: str) -> list[bool]:
        """Return for each layer whether it has a tensor."""
        return [f"blk.{layer}.{name}" in self.tensors for layer in range(self.layers)]

    def tensor(self, name: str) -> GGUFTensor:
        """Return a tensor, of the first layer that has it. Raises GGUFError if there is none."""
        names = [name, *(f"blk.{layer}.{name}" for layer in range(self.layers))]
        for each in names:
            if each in self.tensors:
                return self.tensors[each]
        raise GGUFError(f"has no tensor {name}")

    def rows(self, name: str) -> int:
        """Return the outermost dimension of a tensor, as `tensor` finds it."""
        return self.tensor(name).shape[0]

    def refuse_unread(self, known: Iterable[str]) -> list[str]:
        """Return keys that neither the model nor llama.cpp knows.

        known: all keys of llama.cpp. Raises GGUFError for those of them that nobody has read.
        """
        prefix = f"{self.architecture}."
        keys = [key.removeprefix(prefix) for key in self.metadata if key.startswith(prefix)]
        unread = [key for key in keys if key not in self._read and key not in _HARMLESS]
        names = set(known)
        for key in unread:
            if key in names:
                raise GGUFError(f"says {prefix}{key}, which is not known of this architecture here")
        return [f"{prefix}{key}" for key in unread]
