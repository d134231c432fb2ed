import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headrace.protocol.config import EngineConfig
from headrace.workers.build import build_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.errors import ModelUnsupported
from tests.frontend.text.tokenizers_for_tests import byte_level
from tests.workers.driving import request, run

SIZE = {"vocab_size": 30, "max_position_embeddings": 40}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(SIZE))
    return tmp_path


def build(folder: Path, **options: Any) -> Engine:
    return build_engine(folder, EngineConfig(engine="fake", **options), 1, print)


def test_sizes_come_from_the_configuration_file(folder: Path) -> None:
    assert len(run(build(folder), [(0, request("r", [29], max_tokens=99))])["r"].tokens) == 39
    short = build(folder, max_model_len=10)
    assert len(run(short, [(0, request("r", [29], max_tokens=99))])["r"].tokens) == 9


def test_eos_is_never_chosen_and_logprobs_are_as_many_as_asked(folder: Path) -> None:
    text = run(build(folder), [(0, request("r", [1], max_tokens=30))])["r"].tokens
    eos = text[3]
    answer = run(
        build(folder), [(0, request("r", [1], max_tokens=30, eos_token_ids=(eos,), logprobs=2))]
    )["r"]
    assert eos not in answer.tokens
    assert len(answer.tokens) == 30
    assert [
        len(output.logprobs[0].top_token_ids) for output in answer.outputs if output.logprobs
    ] == ([2] * 30)


def test_with_a_tokenizer_each_token_is_text_of_its_own(folder: Path) -> None:
    tokenizer = byte_level()
    tokenizer.save(str(folder / "tokenizer.json"))
    vocab_size = tokenizer.get_vocab_size()
    size = {"vocab_size": vocab_size, "max_position_embeddings": 400}
    (folder / "config.json").write_text(json.dumps(size))
    tokens = run(build(folder), [(0, request("r", [1], max_tokens=300))])["r"].tokens
    assert len(tokens) == 300
    texts = [tokenizer.decode([token_id], skip_special_tokens=True) for token_id in tokens]
    assert all(text.strip() and text.isprintable() and "\ufffd" not in text for text in texts)
    assert "".join(texts) == tokenizer.decode(tokens)
    everything = [tokenizer.decode([token_id]) for token_id in range(vocab_size)]
    assert not all(text.strip() and "\ufffd" not in text for text in everything)


def test_a_damaged_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelUnsupported, match=r"tokenizer\.json"):
        build(folder)


@pytest.mark.parametrize("text", ["", "{}", '{"vocab_size": "x"}', "[]"])
def test_files_without_sizes_are_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelUnsupported, match="vocab_size"):
        build(folder)


def test_lengths_beyond_the_model_are_refused(folder: Path) -> None:
    with pytest.raises(ModelUnsupported, match="max_model_len 41"):
        build(folder, max_model_len=41)


def test_it_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from headrace.protocol.config import EngineConfig;"
        "from headrace.workers.build import build_engine;"
        f"build_engine(Path({str(folder)!r}), EngineConfig(engine='fake'), 1, print);"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
