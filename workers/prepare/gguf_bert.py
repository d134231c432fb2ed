"""Write what transformers cannot make of a GGUF file of a BERT: configuration, tokenizer, names."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headrace.workers.prepare.gguf_header import GGUFError, GGUFHeader

BERT = "bert"
_WORD = "\u2581"  # llama.cpp's mark of the beginning of a word
_REST = "##"  # WordPiece's mark of anything else
_TOKENIZER = "tokenizer.ggml"
_ROLES = {
    "unk_token": "unknown", "sep_token": "seperator", "pad_token": "padding",
    "cls_token": "bos", "mask_token": "mask",
}  # fmt: skip


def bert_config(header: GGUFHeader) -> Any:
    """Return the configuration of a file. Raises GGUFError if a value is missing."""
    from transformers import BertConfig

    of_model = {
        "hidden_size": "embedding_length", "num_hidden_layers": "block_count",
        "num_attention_heads": "attention.head_count", "intermediate_size": "feed_forward_length",
        "max_position_embeddings": "context_length",
        "layer_norm_eps": "attention.layer_norm_epsilon",
    }  # fmt: skip
    values = {name: _value(header, f"{BERT}.{key}") for name, key in of_model.items()}
    return BertConfig(
        **values,
        vocab_size=_value(header, f"{_TOKENIZER}.tokens"),
        type_vocab_size=header.metadata.get(f"{_TOKENIZER}.token_type_count", 2),
        pad_token_id=header.metadata.get(f"{_TOKENIZER}.padding_token_id", 0),
        hidden_act="gelu",
        architectures=["BertModel"],
        dtype="float32",
    )


def write_bert_tokenizer(file: Path, header: GGUFHeader, output: Path) -> None:
    """Write the WordPiece tokenizer of a file. Raises GGUFError if it has another."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    kind = header.metadata.get(f"{_TOKENIZER}.model")
    if kind != BERT:
        raise GGUFError(f"a {BERT} with a tokenizer of the kind {kind!r} is not read")
    tokens = list(_tokens(file))
    special = {role: tokens[number] for role, number in _special(header, len(tokens))}
    unknown = special.get("unk_token", "[UNK]")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    lowercase = bool(header.metadata.get(f"{_TOKENIZER}.normalizer.lowercase", True))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    first, last = special.get("cls_token"), special.get("sep_token")
    if first is not None and last is not None:
        tokenizer.post_processor = processors.BertProcessing(
            (last, vocabulary[last]), (first, vocabulary[first])
        )
    length = _value(header, f"{BERT}.context_length")
    options: dict[str, Any] = {"tokenizer_object": tokenizer, "model_max_length": length, **special}
    made = PreTrainedTokenizerFast(**options)  # type: ignore[no-untyped-call]
    made.save_pretrained(output)


def bert_places(header: GGUFHeader, layers: int, names: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return where each tensor of a model lies (see gguf_places). names: of its tensors."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    table = get_tensor_name_map(MODEL_ARCH.BERT, layers)
    stored = {}
    for name in names:
        base, _, end = name.rpartition(".")
        stored[f"{table.get_name(base)}.{end}"] = name
    return [
        {
            "file": 0,
            "name": stored[tensor.name],
            "type": tensor.type,
            "shape": tensor.shape,
            "offset": tensor.offset,
        }
        for tensor in header.tensors
        if tensor.name in stored
    ]


def _tokens(file: Path) -> Iterator[str]:
    """Yield the tokens as WordPiece marks them."""
    from gguf import GGUFReader

    field = GGUFReader(file).fields[f"{_TOKENIZER}.tokens"]
    for token in field.contents():
        if token.startswith(_WORD):
            yield token.removeprefix(_WORD)
        else:
            yield token if token[:1] == "[" and token[-1:] == "]" else f"{_REST}{token}"


def _special(header: GGUFHeader, count: int) -> Iterator[tuple[str, int]]:
    for role, key in _ROLES.items():
        number = header.metadata.get(f"{_TOKENIZER}.{key}_token_id")
        if isinstance(number, int) and 0 <= number < count:
            yield role, number


def _value(header: GGUFHeader, key: str) -> Any:
    value = header.metadata.get(key)
    if value is None:
        raise GGUFError(f"has no {key}")
    return value
