"""What a folder says about its model: sentence-transformers' files in all their forms."""

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.protocol.common.pooling.json_files import PoolingFilesError
from headrace.protocol.common.pooling.model_setup import choose_runner, read_setup
from headrace.protocol.common.pooling.module_layers import DenseModule, LayerNormModule
from headrace.protocol.common.pooling.module_list import encoder_folder
from headrace.protocol.common.pooling.sentence_modules import read_sentence_modules

EMBEDDERS = (
    *("BertModel", "RobertaModel", "XLMRobertaModel", "DistilBertModel", "DistilBertForMaskedLM"),
    *(
        "MPNetForMaskedLM",
        "MPNetModel",
        "ModernBertModel",
        "ModernBertForMaskedLM",
        "NomicBertModel",
    ),
    *("DebertaModel", "DebertaV2Model", "AlbertForPreTraining", "ElectraForPreTraining"),
    *("T5EncoderModel", "Gemma3TextModel", "Qwen3Model", "LlamaModel", "HF_ColBERT"),
)
CLASSIFIERS = (
    *("XLMRobertaForSequenceClassification", "ModernBertForSequenceClassification"),
    *("DebertaV2ForSequenceClassification", "DebertaV2ForTokenClassification"),
    *("DistilBertForTokenClassification", "LlamaForSequenceClassification"),
    *("Qwen3ForSequenceClassification", "Qwen2ForTokenClassification"),
)
GENERATORS = ("LlamaForCausalLM", "Gemma3ForCausalLM", "GPT2LMHeadModel", "Qwen3ForCausalLM")
BERT = {"architectures": ["BertModel"], "hidden_size": 32, "max_position_embeddings": 512}


def write(folder: Path, name: str, value: object) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(value))


def write_modules(folder: Path, *kinds: str, prefix: str = "sentence_transformers.models") -> None:
    modules = [
        {"idx": n, "path": "" if n == 0 else f"{n}_{kind}", "type": f"{prefix}.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    write(folder, "modules.json", modules)
    for n, kind in enumerate(kinds):
        if kind == "Pooling":
            write(folder, f"{n}_{kind}/config.json", {})


def modules_of(folder: Path) -> Any:
    return read_sentence_modules(folder)


@pytest.mark.parametrize(
    "prefix", ["sentence_transformers.models", "sentence_transformers.sentence_transformer.modules"]
)
def test_modules_are_known_by_the_last_part_of_their_names(tmp_path: Path, prefix: str) -> None:
    write_modules(tmp_path, "Transformer", "Pooling", "Normalize", prefix=prefix)
    write(tmp_path, "1_Pooling/config.json", {"pooling_mode": "cls", "embedding_dimension": 32})
    found = modules_of(tmp_path)
    assert (found.modes, found.normalizes, found.includes_prompt) == (("cls",), True, True)


@pytest.mark.parametrize(
    ("config", "modes"),
    [
        ({}, ("mean",)),
        ({"pooling_mode": "lasttoken"}, ("lasttoken",)),
        ({"pooling_mode_cls_token": True}, ("cls",)),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True}, ("max",)),
        ({"pooling_mode_mean_tokens": False}, ("mean",)),
        (
            {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": True}
            | {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True},
            ("cls", "max", "mean", "lasttoken"),
        ),
        ({"pooling_mode": ["lasttoken", "cls"]}, ("cls", "lasttoken")),
    ],
)
def test_modes_in_both_forms(
    tmp_path: Path, config: dict[str, Any], modes: tuple[str, ...]
) -> None:
    write_modules(tmp_path, "Transformer", "Pooling")
    write(tmp_path, "1_Pooling/config.json", config)
    found = modules_of(tmp_path)
    assert (found.modes, found.normalizes) == (modes, False)


@pytest.mark.parametrize(
    ("files", "length"),
    [
        ({"sentence_bert_config.json": {"max_seq_length": 128}}, 128),
        ({"sentence_bert_config.json": {}}, 512),
        (
            {"sentence_bert_config.json": {}, "tokenizer_config.json": {"model_max_length": 300}},
            300,
        ),
        ({"sentence_bert_config.json": {"max_seq_length": 1000}}, 512),  # the model's positions
        ({"tokenizer_config.json": {"model_max_length": 10**30}}, 512),
    ],
)
def test_lengths(tmp_path: Path, files: dict[str, object], length: int) -> None:
    write_modules(tmp_path, "Transformer", "Pooling")
    for name, value in files.items():
        write(tmp_path, name, value)
    setup = read_setup(tmp_path, "auto", BERT)
    assert (setup.own_length, setup.longest, setup.size) == (length, 512, 32)
    assert setup.tasks == ("embed", "token_embed")


def test_positions_of_roberta(tmp_path: Path) -> None:
    config = {**BERT, "model_type": "xlm-roberta", "pad_token_id": 1}
    config["max_position_embeddings"] = 514
    assert read_setup(tmp_path, "embed", config).longest == 512


def test_prompts(tmp_path: Path) -> None:
    write_modules(tmp_path, "Transformer", "Pooling")
    write(tmp_path, "1_Pooling/config.json", {"include_prompt": False})
    prompts = {"query": "query: ", "document": ""}
    settings = {"prompts": prompts, "default_prompt_name": "query", "similarity_fn_name": "dot"}
    write(tmp_path, "config_sentence_transformers.json", settings)
    found = modules_of(tmp_path)
    assert (found.prompts, found.default_prompt) == (prompts, "query")
    assert (found.includes_prompt, found.similarity) == (False, "dot")
    settings["default_prompt_name"] = "other"
    write(tmp_path, "config_sentence_transformers.json", settings)
    with pytest.raises(PoolingFilesError, match="default_prompt_name"):
        modules_of(tmp_path)


def test_dense_layers_change_the_size(tmp_path: Path) -> None:
    write_modules(tmp_path, "Transformer", "Pooling", "Dense")
    write(tmp_path, "2_Dense/config.json", {"in_features": 32, "out_features": 8})
    dense = DenseModule(tmp_path / "2_Dense", 32, 8, has_bias=True, activation="Tanh")
    setup = read_setup(tmp_path, "embed", BERT)
    assert (setup.size, setup.modules.layers) == (8, (dense,))
    write(tmp_path, "2_Dense/config.json", {"in_features": 31, "out_features": 8})
    with pytest.raises(PoolingFilesError, match="takes 31 numbers, not 32"):
        read_setup(tmp_path, "embed", BERT)


def write_router(folder: Path, name: str, **parameters: object) -> None:
    """Write what the newest version writes for layers of two kinds of texts."""
    lists = {"query": ["query_0_Dense"], "document": ["document_0_LayerNorm"]}
    types = {each: f"a.b.{each.split('_')[2]}" for each in ("query_0_Dense", lists["document"][0])}
    value = {"types": types, "structure": lists, "parameters": parameters}
    write(folder, name, value)
    write(folder, "2_Router/query_0_Dense/config.json", {"in_features": 32, "out_features": 32})
    write(folder, "2_Router/document_0_LayerNorm/config.json", {"dimension": 32})


@pytest.mark.parametrize(
    ("file", "parameters", "default"),
    [
        ("router_config.json", {"default_route": "query"}, "query"),
        ("router_config.json", {"default_route": "document"}, "document"),
        ("router_config.json", {"default_route": None, "allow_empty_key": True}, "query"),
        ("config.json", {"allow_empty_key": True}, "query"),  # an Asym of older versions
    ],
)
def test_a_router_has_layers_for_kinds_of_texts(
    tmp_path: Path, file: str, parameters: dict[str, object], default: str
) -> None:
    write_modules(tmp_path, "Transformer", "Pooling", "Router", "Normalize")
    write_router(tmp_path, f"2_Router/{file}", **parameters)
    found = modules_of(tmp_path)
    dense, norm = found.routes["query"].layers[0], found.routes["document"].layers[0]
    assert isinstance(dense, DenseModule)
    assert isinstance(norm, LayerNormModule)
    assert dense.folder == tmp_path / "2_Router/query_0_Dense"
    assert (found.default_route, found.layers) == (default, found.routes[default].layers)
    assert (found.normalizes, found.routes["query"].normalizes) == (True, True)
    assert read_setup(tmp_path, "embed", BERT).size == 32


def test_routes_must_agree(tmp_path: Path) -> None:
    write_modules(tmp_path, "Transformer", "Pooling", "Router")
    write_router(tmp_path, "2_Router/router_config.json")
    write(tmp_path, "2_Router/query_0_Dense/config.json", {"in_features": 32, "out_features": 8})
    with pytest.raises(PoolingFilesError, match="not of one size"):
        read_setup(tmp_path, "embed", BERT)
    write_router(tmp_path, "2_Router/router_config.json", default_route="other")
    with pytest.raises(PoolingFilesError, match="default_route"):
        modules_of(tmp_path)
    write_router(tmp_path, "2_Router/router_config.json", route_mappings={"(None, 'a')": "query"})
    with pytest.raises(PoolingFilesError, match="route_mappings"):
        modules_of(tmp_path)


def test_where_the_model_lies(tmp_path: Path) -> None:
    assert encoder_folder(tmp_path) == tmp_path
    write(tmp_path, "modules.json", [{"type": "a.Transformer", "path": "0_BERT"}])
    assert encoder_folder(tmp_path) == tmp_path / "0_BERT"
    write(tmp_path, "modules.json", [{"type": "a.Router", "path": ""}])
    lists = {"query": ["query_0_StaticEmbedding"], "document": ["document_0_Transformer"]}
    types = {name: f"a.{name.split('_')[2]}" for names in lists.values() for name in names}
    write(tmp_path, "router_config.json", {"types": types, "structure": lists, "parameters": {}})
    with pytest.raises(PoolingFilesError, match="several models"):
        encoder_folder(tmp_path)


@pytest.mark.parametrize(
    ("config", "dimensions"),
    [
        ({}, None),
        ({"is_matryoshka": True}, ()),
        ({"matryoshka_dimensions": [32, 8]}, (8, 32)),
        ({"matryoshka_dimensions": "all"}, None),
    ],
)
def test_embeddings_that_may_be_cut(
    tmp_path: Path, config: dict[str, Any], dimensions: tuple[int, ...] | None
) -> None:
    assert read_setup(tmp_path, "embed", {**BERT, **config}).dimensions == dimensions


def test_without_modules_a_decoder_pools_its_last_token(tmp_path: Path) -> None:
    decoder = {**BERT, "architectures": ["Qwen3ForCausalLM"], "num_key_value_heads": 2}
    assert read_setup(tmp_path, "embed", decoder).modules.modes == ("lasttoken",)
    plain = read_setup(tmp_path, "embed", BERT).modules
    assert (plain.modes, plain.normalizes) == (("cls",), True)


@pytest.mark.parametrize(
    ("architecture", "options", "use"),
    [
        *((name, ("auto", "auto"), ("pooling", "embed")) for name in EMBEDDERS),
        *((name, ("auto", "auto"), ("pooling", "classify")) for name in CLASSIFIERS),
        *((name, ("auto", "auto"), ("generate", "none")) for name in GENERATORS),
        ("RobertaForMaskedLM", ("auto", "auto"), ("pooling", "embed")),
        ("Qwen3ForCausalLM", ("auto", "auto"), ("generate", "none")),
        ("Qwen3ForCausalLM", ("pooling", "auto"), ("pooling", "embed")),
        ("Qwen3ForCausalLM", ("auto", "embed"), ("pooling", "embed")),
        ("Qwen3ForCausalLM", ("auto", "classify"), ("pooling", "classify")),
        ("BertForSequenceClassification", ("auto", "auto"), ("pooling", "classify")),
        ("BertForTokenClassification", ("auto", "auto"), ("pooling", "classify")),
        ("Unheard", ("auto", "auto"), ("generate", "none")),
    ],
)
def test_what_a_model_is_for(
    tmp_path: Path, architecture: str, options: tuple[Any, Any], use: tuple[str, str]
) -> None:
    write(tmp_path, "config.json", {"architectures": [architecture]})
    assert choose_runner(tmp_path, *options) == use


@pytest.mark.parametrize(
    ("config", "use"),
    [
        ({"model_type": "bert"}, ("pooling", "embed")),
        ({"model_type": "bert", "architectures": ["OurOwn"]}, ("pooling", "embed")),
        ({"model_type": "mpnet", "architectures": None}, ("pooling", "embed")),
        ({"model_type": "bert", "is_decoder": True}, ("generate", "none")),
        ({"model_type": "llama"}, ("generate", "none")),
    ],
)
def test_what_a_model_without_a_known_architecture_is_for(
    tmp_path: Path, config: dict[str, Any], use: tuple[str, str]
) -> None:
    write(tmp_path, "config.json", config)
    assert choose_runner(tmp_path, "auto", "auto") == use


def test_modules_make_any_model_embed_but_not_a_cross_encoder(tmp_path: Path) -> None:
    write(tmp_path, "config.json", {"architectures": ["Qwen3ForCausalLM"]})
    write_modules(tmp_path, "Transformer", "Pooling")
    assert choose_runner(tmp_path, "auto", "auto") == ("pooling", "embed")
    assert choose_runner(tmp_path, "generate", "auto") == ("generate", "none")
    write(tmp_path, "config.json", {"architectures": ["BertForSequenceClassification"]})
    write(tmp_path, "config_sentence_transformers.json", {"model_type": "CrossEncoder"})
    assert choose_runner(tmp_path, "auto", "auto") == ("pooling", "classify")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("modules.json", {}, "not a list"),
        ("modules.json", [{"type": "a.LSTM", "path": ""}], "'LSTM' is not supported"),
        ("modules.json", [{"type": "a.Router", "path": ""}], "without the lists"),
        ("modules.json", [{"type": "a.Pooling", "path": "9_Pooling"}], "tells the pooling mode"),
        ("modules.json", [{"type": "a.Pooling", "path": "../x"}], "leaves the folder"),
        ("1_Pooling/config.json", {"pooling_mode": "median"}, "'median' is unknown"),
        ("1_Pooling/config.json", [], "not a JSON object"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, value: object, said: str) -> None:
    write_modules(tmp_path, "Transformer", "Pooling")
    write(tmp_path, name, value)
    with pytest.raises(PoolingFilesError, match=said):
        modules_of(tmp_path)


@pytest.mark.parametrize(
    ("settings", "config", "activation"),
    [
        ({}, {}, "softmax"),
        ({}, {"id2label": {"0": "only"}}, "sigmoid"),
        ({}, {"problem_type": "multi_label_classification"}, "sigmoid"),
        ({}, {"problem_type": "regression"}, "none"),
        ({"activation_fn": "torch.nn.modules.linear.Identity"}, {}, "none"),
        ({}, {"sentence_transformers": {"activation_fn": "torch.nn.Sigmoid"}}, "sigmoid"),
        ({}, {"sbert_ce_default_activation_function": "torch.nn.Identity"}, "none"),
    ],
)
def test_labels_and_what_makes_numbers_of_their_scores(
    tmp_path: Path, settings: dict[str, Any], config: dict[str, Any], activation: str
) -> None:
    labels = {"id2label": {"1": "no", "0": "yes"}}
    config = {**BERT, **labels, "architectures": ["BertForSequenceClassification"], **config}
    write(tmp_path, "config.json", config)
    write(tmp_path, "config_sentence_transformers.json", settings)
    setup = read_setup(tmp_path, "auto", config)
    does_score = len(setup.labels) == 1
    assert setup.tasks == (("classify", "score") if does_score else ("classify",))
    assert setup.activation == activation
    assert setup.labels == (("only",) if len(config["id2label"]) == 1 else ("yes", "no"))


def test_a_head_that_does_not_classify(tmp_path: Path) -> None:
    with pytest.raises(PoolingFilesError, match="BertModel has no head"):
        read_setup(tmp_path, "classify", BERT)
    config = {**BERT, "architectures": ["BertForTokenClassification"]}
    assert read_setup(tmp_path, "classify", config).tasks == ("token_classify",)
    config["id2label"] = {"0": "a", "2": "b"}
    with pytest.raises(PoolingFilesError, match="skips numbers"):
        read_setup(tmp_path, "classify", config)


def test_words_that_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(PoolingFilesError, match="excludes"):
        choose_runner(tmp_path, "generate", "embed")
