"""--pooler-config: its keys, as flags and in files, and what is wrong with them."""

from pathlib import Path

import pytest

from headrace.launcher.command.options import OptionError, parse
from headrace.launcher.models.prepare_model import ModelError
from headrace.launcher.models.text_folder import TextOverrides, _text_info
from headrace.protocol.common.pooling.pooler_config import PoolerConfig

CHUNKS = PoolerConfig(enable_chunked_processing=True, max_embed_len=8192)


def test_one_object_by_any_of_its_names(tmp_path: Path) -> None:
    text = '{"enable_chunked_processing": true, "max_embed_len": 8192}'
    file = tmp_path / "pool.toml"
    file.write_text(
        "[[group]]\n[group.pooler_config]\nenable_chunked_processing = true\nmax_embed_len = 8192\n"
    )
    for words in (
        ["--pooler-config", text],
        ["--override-pooler-config", text],
        ["--pooler-config.enable_chunked_processing", "true", "--pooler-config.max_embed_len=8192"],
        ["--config", str(file)],
    ):
        _, (group,), _ = parse(words)
        assert group.engine_config().pooler_config == CHUNKS
    assert parse([])[1][0].engine_config().pooler_config is None
    _, (step,), _ = parse(["--pooler-config", '{"pooling_type": "STEP", "step_tag_id": 3}'])
    config = step.engine_config().pooler_config
    assert config is not None
    assert (config.tok_pooling_type, config.seq_pooling_type) == ("STEP", None)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[]", "must be a JSON object"),
        ('{"x": 1}', "x"),
        ('{"normalize": true}', "use_activation"),
        ('{"pooling_type": "SUM"}', "pooling_type"),
        ('{"pooling_type": "CLS", "seq_pooling_type": "MEAN"}', "seq_pooling_type"),
        ('{"logit_sigma": 0}', "logit_sigma"),
        ('{"max_embed_len": 0}', "max_embed_len"),
        ('{"step_tag_id": 3}', "tok_pooling_type"),
        ('{"returned_token_ids": [1]}', "returned_token_ids"),
    ],
)
def test_wrong_values_are_named(text: str, named: str) -> None:
    with pytest.raises(OptionError, match="--pooler-config") as caught:
        parse(["--pooler-config", text])
    assert named in str(caught.value)


def test_a_model_that_generates_has_no_pooler(tmp_path: Path) -> None:
    facts = {"config": {"vocab_size": 5, "max_position_embeddings": 8}}
    with pytest.raises(ModelError, match="--pooler-config"):
        _text_info(tmp_path, facts, TextOverrides(pooler=CHUNKS))
