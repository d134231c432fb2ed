"""all-MiniLM-L6-v2 over real processes, found by its folder; asked by OpenAI's and LangChain's
clients."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from langchain_openai import OpenAIEmbeddings
from openai import OpenAI
from pydantic import SecretStr
from transformers import AutoModel, AutoTokenizer

from tests.end_to_end.servers import Server
from tests.workers.pooling.driving import cosine
from tests.workers.pooling.minilm import find_minilm

TEXTS = [
    "Paris is the capital of France.",
    "Cats are small animals.",
    "hello",
    "A sentence that goes on and on, " * 20,
]


@pytest.fixture(scope="module")
def folder() -> Path:
    return find_minilm()


@pytest.fixture(scope="module")
def server(folder: Path, cache_dir: Path) -> Iterator[Server]:
    words = ["--model", str(folder), "--served-model-name", "minilm", "--dtype", "float32"]
    started = Server([*words, "--frontends", "1"], cache_dir)
    yield started
    assert started.stop() == 0


def test_vectors_are_those_of_transformers(server: Server, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.embeddings.create(model="minilm", input=TEXTS)
        alone = client.embeddings.create(model="minilm", input=TEXTS[1])
    count = 0
    for text, item in zip(TEXTS, answer.data, strict=True):
        ids = tokenizer(text).input_ids
        count += len(ids)
        with torch.inference_mode():
            wanted = model(torch.tensor([ids])).last_hidden_state[0].mean(0).double().numpy()
        assert cosine(np.array(item.embedding), wanted) >= 0.999999
    assert answer.usage.prompt_tokens == count
    assert alone.data[0].embedding == answer.data[1].embedding
    assert "curl" in server.log
    assert "/v1/embeddings" in server.log


def test_all_forms_hold_the_same_bytes(server: Server) -> None:
    def ask(**fields: str) -> httpx.Response:
        body = {"model": "minilm", "input": TEXTS, **fields}
        answer = server.client.post("/v1/embeddings", json=body)
        assert answer.status_code == 200
        return answer

    plain = [item["embedding"] for item in ask().json()["data"]]
    wanted = np.array(plain, dtype=np.float32).tobytes()
    encoded = ask(encoding_format="base64").json()["data"]
    assert b"".join(base64.b64decode(item["embedding"]) for item in encoded) == wanted
    answer = ask(encoding_format="bytes")
    places = json.loads(answer.headers["metadata"])["data"]
    assert b"".join(answer.content[item["start"] : item["end"]] for item in places) == wanted
    assert ask(encoding_format="bytes_only").content == wanted


def test_langchain(server: Server) -> None:
    """Which by itself would send the token ids of another model's tokenizer."""
    langchain = OpenAIEmbeddings(
        model="minilm",
        openai_api_base=f"{server.url}/v1",
        openai_api_key=SecretStr("none"),
        max_retries=0,
        check_embedding_ctx_length=False,
    )
    found = langchain.embed_documents(TEXTS)
    body = {"model": "minilm", "input": TEXTS}
    wanted = server.client.post("/v1/embeddings", json=body).json()["data"]
    assert found == [item["embedding"] for item in wanted]
    assert langchain.embed_query(TEXTS[1]) == found[1]
    langchain.client._client.close()
