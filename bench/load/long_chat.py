"""Measure the CPU time that a long chat and its next turn take a frontend, without a model.

Each chat is new to the pool. Its text is this project's own source and documents, in another order
for each chat. Then it is sent again with the answer and a short question, as clients do. The model
is a copy of the given folder (the default model's, if none is given) whose context is 131,072
tokens. CPU times are counted in ticks of 10 ms, so a round is several chats.
"""

import http.client
import json
import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bench.load.fake_pools import Pool, cpu_s, pool
from bench.load.layouts import ROOT
from headrace.launcher.models.prepare_model import PrepareOptions, prepare_model

CONTEXT = 131_072
CHATS = 6  # in a round

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Shape:
    """The length of a chat, and into how many messages it is divided."""

    tokens: int
    messages: int


@dataclass(frozen=True, slots=True)
class Turns:
    """Milliseconds of a frontend's CPU time for a chat, and for its next turn."""

    first_ms: float
    next_ms: float


def compare(checkouts: Mapping[str, Path], model: str | None, shape: Shape, rounds: int) -> None:
    """Measure the checkouts in turn and print each round, and the medians of the ratios."""
    with tempfile.TemporaryDirectory(prefix="hr-") as folder, ExitStack() as stack:
        path = copy_with_context(_model_path(model, Path(folder, "text")), Path(folder, "model"))
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        pools = {
            name: stack.enter_context(pool(checkout, str(path), 0.0))
            for name, checkout in checkouts.items()
        }
        print(f"{'build':>10}{'first, ms':>12}{'next, ms':>12}", flush=True)
        results: dict[str, list[Turns]] = {name: [] for name in pools}
        for number in range(-1, rounds):  # the first only warms up
            chats = [make_chat(tokenizer, shape, f"{number}/{index}") for index in range(CHATS)]
            order = list(pools) if number % 2 == 0 else list(reversed(pools))
            for name in order:
                turns = measure(pools[name], chats)
                if number >= 0:
                    results[name].append(turns)
                    print(f"{name:>10}{turns.first_ms:>12.1f}{turns.next_ms:>12.1f}", flush=True)
        if len(results) == 2:
            show_ratios(shape, *results.values())


def _model_path(model: str | None, text_path: Path) -> Path:
    if model is not None:
        return Path(model)
    return prepare_model(None, PrepareOptions(text_path=text_path)).model_path


def copy_with_context(model: Path, folder: Path) -> Path:
    """Make a folder like a model's, but for its context; return it."""
    folder.mkdir()
    for file in model.iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file.resolve())
    config = json.loads((model / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT}))
    return folder


def make_chat(tokenizer: Tokenizer, shape: Shape, seed: str) -> Messages:
    """Return the messages of a chat of about so many tokens; the last is the user's."""
    files = [*ROOT.rglob("headrace/**/*.py"), *ROOT.glob("[a-z]*/**/*.py"), *ROOT.glob("docs/*.md")]
    random.Random(seed).shuffle(files)
    text = "\n".join(file.read_text() for file in files)[: shape.tokens * 8]
    token_ids = tokenizer.encode(text, add_special_tokens=False).ids[: shape.tokens]
    size = -(-len(token_ids) // shape.messages)
    contents = [
        tokenizer.decode(token_ids[start : start + size])
        for start in range(0, len(token_ids), size)
    ]
    roles = ["user" if index % 2 == 0 else "assistant" for index in range(len(contents))]
    if roles[-1] != "user":
        roles = [*roles[1:], "user"]
    return [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=True)
    ]


def measure(pool: Pool, chats: Sequence[Messages]) -> Turns:
    """Send each chat, and then the next turn of each; return the mean times."""
    before = cpu_s(pool.frontend_pid)
    answers = [ask(pool, messages) for messages in chats]
    between = cpu_s(pool.frontend_pid)
    for messages, answer in zip(chats, answers, strict=True):
        ask(pool, [*messages, answer, {"role": "user", "content": "And what follows from that?"}])
    after = cpu_s(pool.frontend_pid)
    return Turns((between - before) * 1e3 / len(chats), (after - between) * 1e3 / len(chats))


def ask(pool: Pool, messages: Messages) -> dict[str, str]:
    """Return the message that answers a chat."""
    body = json.dumps({"messages": messages, "max_tokens": 8, "ignore_eos": True})
    connection = http.client.HTTPConnection(pool.url.partition("://")[2], timeout=120)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", body.encode(), headers)
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
    finally:
        connection.close()
    if response.status != 200:
        raise SystemExit(f"a chat failed: {answer}")
    message = answer["choices"][0]["message"]
    return {"role": message["role"], "content": message["content"]}


def show_ratios(shape: Shape, this: Sequence[Turns], that: Sequence[Turns]) -> None:
    """Print the medians of the rounds' ratios of this checkout to the other one."""
    rounds = list(zip(this, that, strict=True))
    ratios = {
        "first": [a.first_ms / max(b.first_ms, 1e-9) for a, b in rounds],
        "next": [a.next_ms / max(b.next_ms, 1e-9) for a, b in rounds],
    }
    shown = [
        f"{name} {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
        for name, values in ratios.items()
    ]
    size = f"{shape.tokens} tokens in {shape.messages} messages"
    print(f"this over that, {size}: {', '.join(shown)}", flush=True)
