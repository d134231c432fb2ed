"""A real model: all-MiniLM-L6-v2, against transformers' forward, a mean and a normalization."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from headrace.protocol.config import EngineConfig
from headrace.workers.pooling.build import build_pooling_engine
from tests.workers.pooling.driving import cosine, encode, numbers, run
from tests.workers.pooling.minilm import find_minilm

COUNT = 300


@pytest.fixture(scope="module")
def folder() -> Path:
    return find_minilm()


@pytest.fixture(scope="module")
def inputs(folder: Path) -> list[list[int]]:
    """Texts of mixed length, some of them longer than the model takes."""
    generator = random.Random(5)
    words = (folder / "vocab.txt").read_text(encoding="utf-8").split()[2000:12000]
    lengths = [1, 2, 3, 300, *(generator.choice((2, 5, 10, 20, 40, 80)) for _ in range(COUNT - 4))]
    texts = [" ".join(generator.choices(words, k=length)) for length in lengths]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found: list[list[int]] = tokenizer(texts, truncation=True, max_length=256).input_ids
    return found


@pytest.fixture(scope="module")
def expected(folder: Path, inputs: list[list[int]]) -> list[np.ndarray]:
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    vectors: dict[int, np.ndarray] = {}
    order = sorted(range(len(inputs)), key=lambda number: len(inputs[number]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small products wait for each other's threads on a busy machine
    for start in range(0, len(order), 20):
        part = order[start : start + 20]
        rows = [torch.tensor(inputs[number]) for number in part]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = (torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])).long()
        with torch.inference_mode():
            found = model(ids, attention_mask=mask).last_hidden_state * mask.unsqueeze(2)
        for number, total in zip(part, found.sum(1), strict=True):
            vectors[number] = (total / total.norm()).double().numpy()
    torch.set_num_threads(threads)
    return [vectors[number] for number in range(len(inputs))]


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.999999), ("bfloat16", 0.9999)])
def test_cosines(
    folder: Path, inputs: list[list[int]], expected: list[np.ndarray], dtype: str, least: float
) -> None:
    config = EngineConfig.model_validate({"runner": "pooling", "dtype": dtype, "threads": 1})
    engine = build_pooling_engine(folder, config, 1, print)
    together = run(engine, [encode(str(n), ids) for n, ids in enumerate(inputs)])
    found = [together[str(n)].pooled for n in range(len(inputs))]
    worst = min(cosine(numbers(one), two) for one, two in zip(found, expected, strict=True))
    assert worst >= least
    assert all(abs(np.linalg.norm(numbers(one)) - 1) < 1e-5 for one in found)
    # Alone, or beside others: the same to the last bit.
    for number in (0, 3, 7, 20):
        alone = run(engine, [encode("alone", inputs[number])])["alone"].pooled
        assert alone == found[number]
    order = random.Random(7).sample(range(len(inputs)), len(inputs))
    for start in range(0, len(order), 37):
        some = run(engine, [encode(str(n), inputs[n]) for n in order[start : start + 37]])
        assert all(output.pooled == found[int(name)] for name, output in some.items())
