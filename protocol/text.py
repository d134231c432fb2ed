"""The text folder of a model, as frontends need it: `tokenizer.json` and `text.json` (TextInfo).

The launcher writes it once, whatever the format of the model, so that a frontend never needs
transformers.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from headrace.protocol.common.speech.speech_info import SpeechInfo
from headrace.protocol.config import Frozen
from headrace.protocol.pooling import GENERATE, TRANSCRIPTION, PoolingTask, Task


class PoolingInfo(Frozen):
    """What a model that pools does with texts.

    size: numbers of an embedding, or labels. dimensions: to how many embeddings may be cut; empty:
        to any number; None: they may not be cut.
    prompts: texts that go before others, by name. default_prompt: the name of the one before texts
        of no kind; None: none goes before them.
    includes_prompt: whether a prompt's tokens are pooled, too.
    lowercases: whether texts are read in lower case.
    has_token_types: whether the model tells the two texts of a pair apart.
    separates_pairs: whether a cross-encoder's tokenizer joins pairs; false: one text follows the
        other at once, as clients have written them.
    normalizes: whether embeddings are normalized unless a request says otherwise.
    truncation_side: of texts that are cut, unless a request says otherwise.
    similarity: how embeddings are compared.
    labels: of a classifier, by their numbers.
    max_embed_len: tokens of a text that is embedded, at most; None: max_model_len.
    default_task, default_dimensions, activates: what requests mean that leave it out; None: the
        first task, all numbers, and what the model's authors say.
    routes: the names of kinds of texts that are pooled in ways of their own.
    """

    tasks: tuple[PoolingTask, ...]
    size: Annotated[int, Field(ge=1)]
    dimensions: tuple[int, ...] | None = None
    prompts: dict[str, str] = Field(default_factory=dict)
    default_prompt: str | None = None
    includes_prompt: bool = True
    lowercases: bool = False
    has_token_types: bool = False
    separates_pairs: bool = True
    normalizes: bool = True
    truncation_side: Literal["left", "right"] = "right"
    similarity: str = "cosine"
    labels: tuple[str, ...] = ()
    max_embed_len: Annotated[int, Field(ge=1)] | None = None
    default_task: PoolingTask | None = None
    default_dimensions: int | None = None
    activates: bool | None = None
    routes: tuple[str, ...] = ()


class TextInfo(Frozen):
    """The special tokens, chat templates and limits of a model.

    max_model_len: tokens of prompt and output together, at most.
    vocab_size: rows of the model's embedding; token ids are below it.
    chat_template: Jinja source, None if the model has none.
    chat_templates: further templates by name, such as "tool_use".
    eos_token_ids: each of them ends an output.
    generation_defaults: sampling parameters that the model's authors recommend, and the length of
        outputs ("max_new_tokens").
    max_output_tokens: of any output at most, as the operator limits it.
    pooling: what it does with texts instead of generating more; None: it generates.
    speech: how it transcribes, instead of continuing texts; None: it does not.
    """

    max_model_len: Annotated[int, Field(ge=1)]
    vocab_size: Annotated[int, Field(ge=1)]
    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    unk_token: str | None = None
    eos_token_ids: tuple[int, ...] = ()
    chat_template: str | None = None
    chat_templates: dict[str, str] = Field(default_factory=dict)
    generation_defaults: dict[str, float] = Field(default_factory=dict)
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    tokenizer_class: str = "PreTrainedTokenizerFast"
    added_tokens: dict[int, str] = Field(default_factory=dict)
    pooling: PoolingInfo | None = None
    speech: SpeechInfo | None = None

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What the model does."""
        if self.speech is not None:
            return (TRANSCRIPTION,)
        return (GENERATE,) if self.pooling is None else self.pooling.tasks

    @property
    def longest_text(self) -> int:
        """The tokens of a text for any task, at most."""
        embedded = self.pooling.max_embed_len if self.pooling is not None else None
        return max(self.max_model_len, embedded or 0)

    @staticmethod
    def file(text_path: Path) -> Path:
        return text_path / "text.json"

    @staticmethod
    def tokenizer_file(text_path: Path) -> Path:
        return text_path / "tokenizer.json"

    @classmethod
    def load(cls, text_path: Path) -> "TextInfo":
        """Load the TextInfo of a text folder."""
        return cls.model_validate_json(cls.file(text_path).read_text())

    def save(self, text_path: Path) -> None:
        """Write the TextInfo of a text folder."""
        self.file(text_path).write_text(self.model_dump_json(indent=1))
