"""LoRA adapters of a real model: each text is the one that PEFT's own model gives."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch

from tests.chaos.models import model_flags, save_chaos_model
from tests.end_to_end.servers import Server, kill_workers
from tests.lora_adapters import load_with_adapter, make_adapter

PROMPTS = [[5, 6, 7, 8], [100, 200, 300], [9] * 40]
TOKENS = 16
EVERYWHERE = "all-linear"

Texts = dict[tuple[str, int], list[int]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chaos_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "one": make_adapter(folder / "one", model, rank=8, seed=1),
        "two": make_adapter(folder / "two", model, rank=4, seed=2, targets=EVERYWHERE),
        "three": make_adapter(folder / "three", model, rank=16, seed=3, use_rslora=True),
    }


@pytest.fixture(scope="module")
def texts(model: Path, adapters: dict[str, Path]) -> Texts:
    """What PEFT's models say, by adapter and prompt."""
    said = {}
    for name, folder in {"base": None, **adapters}.items():
        theirs = load_with_adapter(model, folder)
        for number, prompt in enumerate(PROMPTS):
            tokens = list(prompt)
            for _ in range(TOKENS):
                with torch.no_grad():
                    logits = theirs(torch.tensor([tokens])).logits[0, -1]
                tokens.append(int(logits.argmax()))
            said[name, number] = tokens[len(prompt) :]
    return said


@pytest.fixture(scope="module")
def server(model: Path, adapters: dict[str, Path], cache_dir: Path) -> Iterator[Server]:
    """Two adapters at once at most, of three; one is there from the start."""
    pool = ["--workers", "2", "--frontends", "2", "--enable-admin", "--enable-lora"]
    lora = ["--max-loras", "2", "--lora-modules", f"one={adapters['one']}"]
    flags = [*model_flags(model, "tiny"), "--served-model-name", "base", *pool, *lora]
    server = Server(flags, cache_dir)
    for name in ("two", "three"):
        body = {"lora_name": name, "lora_path": str(adapters[name])}
        assert httpx.post(f"{server.url}/v1/load_lora_adapter", json=body).status_code == 200
    yield server
    assert server.stop() == 0


def ask(server: Server, name: str, number: int) -> list[int]:
    body = {"model": name, "prompt": PROMPTS[number], "max_tokens": TOKENS, "temperature": 0}
    body |= {"ignore_eos": True, "return_token_ids": True}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    found: list[int] = answer.json()["choices"][0]["token_ids"]
    return found


def check(server: Server, texts: Texts, rounds: int = 1) -> None:
    """Everything at once, more adapters than one step may have."""
    asked = list(texts) * rounds
    with ThreadPoolExecutor(len(asked)) as threads:
        said = list(threads.map(lambda key: ask(server, *key), asked))
    assert said == [texts[key] for key in asked]


def test_each_text_is_pefts(server: Server, texts: Texts) -> None:
    assert len({tuple(text) for text in texts.values()}) == len(texts)
    check(server, texts, rounds=4)


@pytest.mark.parametrize("level", [1, 2])
def test_after_sleep(server: Server, texts: Texts, level: int) -> None:
    with server.new_client() as client:
        assert client.post(f"/sleep?level={level}").status_code == 200
        assert client.post("/wake_up").status_code == 200
    check(server, texts)


def test_after_death(server: Server, texts: Texts) -> None:
    kill_workers(server)
    check(server, texts)


def test_one_for_another_model_is_refused(
    server: Server, texts: Texts, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in adapters["one"].iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    weights = other / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    body = {"lora_name": "broken", "lora_path": str(other)}
    answer = httpx.post(f"{server.url}/v1/load_lora_adapter", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "lora_path"
    assert str(other) not in error["message"]
    check(server, texts)
