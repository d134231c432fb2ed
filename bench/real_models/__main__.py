"""Compare models that people have with transformers and llama.cpp: greedy texts and token ids.

    HF_HUB_OFFLINE=1 python -m bench.real_models MODEL [MODEL ...] [--llama FOLDER]
        [--tokenizer FOLDER]

MODEL is a GGUF file or a folder. Headrace serves each in float32, once with compiled programs and
once with torch's operations, and continues a dozen prompts of 5 to 300 tokens, chats among them,
all at once, by 24 greedy tokens. transformers computes the same from the same weights, a GGUF's as
its own reader and the gguf package dequantize them. A text may differ only where transformers' best
two logits are within 0.01 of each other.

Token ids of some 360 texts (spaces, newlines, digits, scripts, special tokens, long words) are
compared with those of the model's own tokenizer.json (of --tokenizer, for a GGUF), and with
llama.cpp's server of the same GGUF, if FOLDER has a `llama-server`; so are conversations.
"""

import argparse
import gc
import os
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer

from bench.beside_llama import headrace, llama
from bench.real_models import served
from bench.real_models.outcomes import show_texts, show_tokens
from bench.real_models.reference import greedy, load_reference
from bench.real_models.texts import CONVERSATIONS, LENGTHS, PROMPTS, long_text, nasty_texts

TOKENS = 24
# fp32 as told; a short context, whose K/V cache fits into what the server is given.
SERVED = ("--dtype", "float32", "--max-model-len", "1024")
KINDS = {"compiled": (), "torch": ("--cpu-kernels", "torch")}


def compare(model: Path, given: argparse.Namespace) -> bool:
    """Compare one model; return whether nothing differs."""
    print(f"{model.name}:", flush=True)
    prompts: list[list[int]] = []
    texts: dict[str, list[list[int]]] = {}
    is_same = True
    for kind, flags in KINDS.items():
        with headrace(model, given.threads, [*SERVED, *flags]) as server:
            if not prompts:
                is_same = compare_tokens(model, server.url, given)
                prompts = make_prompts(server.url)
            texts[kind] = served.continuations(server.url, prompts, TOKENS)
    expected = greedy(load_reference(model, given.threads), prompts, TOKENS)
    gc.collect()  # a reference takes gigabytes
    for kind, found in texts.items():
        is_same &= show_texts(kind, expected, found)
    return is_same


def make_prompts(url: str) -> list[list[int]]:
    """Return prompts as token ids: texts, parts of a long one, and conversations."""
    long = served.tokens_of(url, long_text())
    prompts = [served.tokens_of(url, text) for text in PROMPTS]
    prompts += [long[:length] for length in LENGTHS]
    return prompts + [ids for _, ids in _chats(url)]


def _chats(url: str) -> Iterator[tuple[str, list[int]]]:
    """Yield conversations as texts and token ids; none if the model has no chat template."""
    for messages in CONVERSATIONS:
        try:
            yield repr(messages), served.chat_tokens(url, messages)
        except served.Refused as error:
            print(f"  no chat: {error}", flush=True)
            return


def compare_tokens(model: Path, url: str, given: argparse.Namespace) -> bool:
    """Print how many texts have the same token ids elsewhere; return whether all have."""
    texts = nasty_texts()
    ours = [served.tokens_of(url, text) for text in texts]
    is_same = True
    folder = given.tokenizer or model
    if folder.is_dir():
        original = Tokenizer.from_file(str(folder / "tokenizer.json"))
        is_same &= show_tokens("the original", texts, ours, [original.encode(t).ids for t in texts])
    if given.llama is not None and not model.is_dir():
        with llama(given.llama, model, given.threads, ["-c", "512"]) as peer:
            theirs = [served.llama_tokens(peer.url, text) for text in texts]
            is_same &= show_tokens("llama.cpp", texts, ours, theirs)
            chats = list(_chats(url))
            theirs = [served.llama_chat_tokens(peer.url, each) for each in CONVERSATIONS]
            names, ids = [name for name, _ in chats], [ids for _, ids in chats]
            is_same &= show_tokens("llama.cpp (chats)", names, ids, theirs[: len(chats)])
    return is_same


def main() -> int:
    """Compare the models of the command line; return 1 if any differs."""
    parser = argparse.ArgumentParser(prog="bench.real_models")
    add = parser.add_argument
    add("models", type=Path, nargs="+", metavar="MODEL")
    add("--llama", type=Path, metavar="FOLDER", help="the folder of llama-server")
    add("--tokenizer", type=Path, metavar="FOLDER", help="with the original tokenizer.json")
    add("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    differ = [model for model in given.models if not compare(model, given)]
    return 1 if differ else 0


if __name__ == "__main__":
    raise SystemExit(main())
