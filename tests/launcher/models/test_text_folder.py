"""The text folder holds what the model's files say, and what the operator wants otherwise."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.launcher.models.chat_templates import model_templates, override_template
from headrace.launcher.models.model_folder import ModelError
from headrace.launcher.models.text_folder import TextOverrides, write_text_folder
from headrace.protocol.text import TextInfo


def write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    return path


class TestTextInfo:
    @pytest.fixture
    def write(self, tmp_path: Path, folder: Path) -> Callable[..., TextInfo]:
        facts_path = tmp_path / "facts"
        facts_path.mkdir()
        (facts_path / "tokenizer.json").write_text("{}")

        def run(config: dict[str, Any] | None = None, **overrides: Any) -> TextInfo:
            facts = {
                "config": {"vocab_size": 300, "max_position_embeddings": 64, **(config or {})},
                "special_tokens": {"bos_token": None, "eos_token": "</s>"},
                "eos_token_id": 2,
                "model_max_length": 10**30,
                "tokenizer_class": "X",
                "added_tokens": {"2": "</s>"},
            }
            write_json(facts_path / "facts.json", facts)
            text = TextOverrides(**overrides)
            info = write_text_folder(folder, facts_path, tmp_path / "text", text)
            assert TextInfo.load(tmp_path / "text") == info
            return info

        return run

    @pytest.mark.parametrize(
        ("config", "length"),
        [
            ({}, 64),
            ({"max_position_embeddings": None, "n_positions": 32}, 32),
            ({"max_position_embeddings": None, "seq_length": 16}, 16),
            (
                {
                    "rope_parameters": {
                        "rope_type": "yarn",
                        "factor": 4.0,
                        "original_max_position_embeddings": 64,
                    }
                },
                256,
            ),
            ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 64),
        ],
    )
    def test_context_length(
        self, write: Callable[..., TextInfo], config: dict[str, Any], length: int
    ) -> None:
        assert write(config).max_model_len == length

    def test_an_unknown_context_length_must_be_given(self, write: Callable[..., TextInfo]) -> None:
        with pytest.raises(ModelError, match="give --max-model-len"):
            write({"max_position_embeddings": None})
        assert write({"max_position_embeddings": None}, max_model_len=7).max_model_len == 7

    @pytest.mark.parametrize(("length", "complaint"), [(65, "own 64 tokens"), (0, "at least 1")])
    def test_a_context_length_that_does_not_fit(
        self, write: Callable[..., TextInfo], length: int, complaint: str
    ) -> None:
        with pytest.raises(ModelError, match=f"--max-model-len {length}: .*{complaint}"):
            write(max_model_len=length)

    @pytest.mark.parametrize(
        ("config", "has_types", "separates"),
        [
            ({}, False, True),
            ({"type_vocab_size": 2}, True, True),
            ({"type_vocab_size": 1}, False, True),
            ({"use_sep_token": False}, False, False),
            ({"classifier_from_token": ["no", "yes"]}, False, False),
            ({"classifier_from_token": ["no", "yes"], "use_sep_token": True}, False, True),
        ],
    )
    def test_how_pairs_are_joined(
        self,
        write: Callable[..., TextInfo],
        config: dict[str, Any],
        has_types: bool,
        separates: bool,
    ) -> None:
        architectures = ["BertForSequenceClassification"]
        info = write({"architectures": architectures, **config}, pools_for="classify").pooling
        assert info is not None
        assert (info.has_token_types, info.separates_pairs) == (has_types, separates)

    @pytest.mark.parametrize(
        ("given", "side"), [("left", "left"), ("right", "right"), (5, "right")]
    )
    def test_the_side_of_texts_that_are_cut(
        self, write: Callable[..., TextInfo], folder: Path, given: object, side: str
    ) -> None:
        write_json(folder / "tokenizer_config.json", {"truncation_side": given})
        info = write({"architectures": ["BertModel"], "hidden_size": 8}, pools_for="embed").pooling
        assert info is not None
        assert info.truncation_side == side

    def test_prompts_of_the_configuration(
        self, write: Callable[..., TextInfo], folder: Path
    ) -> None:
        modules = [{"type": "a.Transformer"}, {"type": "a.Pooling", "path": "1"}]
        write_json(folder / "modules.json", modules)
        (folder / "1").mkdir()
        write_json(folder / "1" / "config.json", {"pooling_mode": "mean"})
        settings = {"prompts": {"query": "q: ", "other": "o: "}}
        write_json(folder / "config_sentence_transformers.json", settings)
        config = {"architectures": ["BertModel"], "hidden_size": 8}
        tasks = {"retrieval.query": "r: ", "query": "Q: ", "bad": 5}
        info = write({**config, "task_instructions": tasks}, pools_for="embed").pooling
        assert info is not None
        assert info.prompts == {"query": "Q: ", "other": "o: ", "retrieval.query": "r: "}
        info = write({**config, "task_instructions": "x"}, pools_for="embed").pooling
        assert info is not None
        assert info.prompts == settings["prompts"]

    def test_ends_of_text_are_united(self, write: Callable[..., TextInfo], folder: Path) -> None:
        write_json(folder / "generation_config.json", {"eos_token_id": [5, 3, 300, -1]})
        assert write({"eos_token_id": 7}).eos_token_ids == (2, 3, 5, 7)

    @pytest.mark.parametrize(
        ("generation", "defaults"),
        [
            (
                {"do_sample": True, "temperature": 1, "top_k": 20, "top_p": None, "max_length": 9},
                {"temperature": 1.0, "top_k": 20.0},
            ),
            ({"min_p": 0.1, "repetition_penalty": 1.1}, {"min_p": 0.1, "repetition_penalty": 1.1}),
            ({"do_sample": False, "temperature": 0.6}, {}),
        ],
    )
    def test_sampling_defaults(
        self,
        write: Callable[..., TextInfo],
        folder: Path,
        generation: dict[str, Any],
        defaults: dict[str, float],
    ) -> None:
        write_json(folder / "generation_config.json", generation)
        assert write().generation_defaults == defaults

    def test_ids_of_another_type_end_nothing(
        self, write: Callable[..., TextInfo], folder: Path
    ) -> None:
        ids = [[1], {"a": 1}, None, "3", 2.5, True, 4]
        write_json(folder / "generation_config.json", {"eos_token_id": ids})
        assert write().eos_token_ids == (2, 4)

    def test_the_length_of_outputs(self, write: Callable[..., TextInfo], folder: Path) -> None:
        write_json(folder / "generation_config.json", {"max_new_tokens": 5})
        info = write()
        assert (info.generation_defaults, info.max_output_tokens) == ({"max_new_tokens": 5.0}, None)
        info = write(override_generation_config={"max_new_tokens": 7})
        assert (info.generation_defaults, info.max_output_tokens) == ({"max_new_tokens": 7.0}, 7)

    def test_a_folder_may_be_written_again(self, write: Callable[..., TextInfo]) -> None:
        assert write(chat_template="{{ 1 }}").chat_template == "{{ 1 }}"
        assert write().chat_template is None

    def test_the_operators_template_goes_before_all_of_the_models(
        self, write: Callable[..., TextInfo], folder: Path
    ) -> None:
        named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
        write_json(folder / "tokenizer_config.json", {"chat_template": named})
        assert write().chat_templates == {"tool_use": "b"}
        assert write(chat_template="{{ 1 }}").chat_templates == {}


class TestChatTemplates:
    def test_one_in_the_tokenizer_config(self, tmp_path: Path) -> None:
        write_json(tmp_path / "tokenizer_config.json", {"chat_template": "a"})
        assert model_templates(tmp_path) == ("a", {})

    def test_several_in_the_tokenizer_config(self, tmp_path: Path) -> None:
        named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
        write_json(tmp_path / "tokenizer_config.json", {"chat_template": named})
        assert model_templates(tmp_path) == ("a", {"tool_use": "b"})

    def test_files_win(self, tmp_path: Path) -> None:
        write_json(tmp_path / "tokenizer_config.json", {"chat_template": "a"})
        write_json(tmp_path / "chat_template.json", {"chat_template": "b"})
        assert model_templates(tmp_path) == ("a", {})
        (tmp_path / "chat_template.jinja").write_text("c")
        (tmp_path / "additional_chat_templates").mkdir()
        (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("d")
        assert model_templates(tmp_path) == ("c", {"rag": "d"})

    def test_a_processors_file(self, tmp_path: Path) -> None:
        write_json(tmp_path / "chat_template.json", {"chat_template": "b"})
        assert model_templates(tmp_path) == ("b", {})

    def test_none(self, tmp_path: Path) -> None:
        assert model_templates(tmp_path) == (None, {})

    @pytest.mark.parametrize("value", [7, [{"name": "a"}], ["a"], {"default": "a"}])
    def test_of_the_wrong_shape(self, tmp_path: Path, value: Any) -> None:
        write_json(tmp_path / "tokenizer_config.json", {"chat_template": value})
        with pytest.raises(ModelError, match=r"tokenizer_config.json: chat_template"):
            model_templates(tmp_path)

    def test_given_as_a_file_or_inline(self, tmp_path: Path) -> None:
        (tmp_path / "own.jinja").write_text("{{ messages }}")
        assert override_template(str(tmp_path / "own.jinja")) == "{{ messages }}"
        inline = "{% for m in messages %}{% generation %}{{ m }}{% endgeneration %}{% endfor %}"
        assert override_template(inline) == inline
        assert override_template("{# " + "long " * 9000 + "#}").startswith("{# long")

    @pytest.mark.parametrize(
        ("value", "complaint"),
        [
            ("no/such.jinja", "--chat-template no/such.jinja: No such file"),
            ("/dev/zero", "--chat-template /dev/zero: longer than 16777216 characters"),
            ("{% for %}", "--chat-template: line 1: "),
            ("{{ a }}\n{% endif %}", "--chat-template: line 2: "),
        ],
    )
    def test_given_wrongly(self, value: str, complaint: str) -> None:
        with pytest.raises(ModelError, match=complaint):
            override_template(value)
