"""A model's chat templates, from all the files in which models keep them."""

import re
from pathlib import Path

from headrace.launcher.models.model_folder import ModelError, read_json_object

# transformers' own block, which marks the assistant's tokens for training and has no effect here
GENERATION_TAG = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")

_MAX_CHARS = 16 << 20  # of --chat-template, whose file may be a device or a pipe


def model_templates(model: Path) -> tuple[str | None, dict[str, str]]:
    """Return the default template (None if there is none) and the others by name.

    A separate file wins over the tokenizer's configuration, as in transformers.
    """
    named = _configured(model / "tokenizer_config.json")
    for name, text in _configured(model / "chat_template.json").items():
        named.setdefault(name, text)
    single = model / "chat_template.jinja"
    if single.is_file():
        named["default"] = _read(single)
    for file in sorted((model / "additional_chat_templates").glob("*.jinja")):
        named[file.stem] = _read(file)
    return named.pop("default", None), named


def override_template(value: str) -> str:
    """Return the template that --chat-template gives, as a file's path or as its text.

    Raises ModelError if it is not a template.
    """
    try:
        with Path(value).expanduser().open(encoding="utf-8") as file:
            text = file.read(_MAX_CHARS + 1)
    except (OSError, ValueError) as error:
        if not any(character in value for character in "{}\n"):
            reason = error.strerror if isinstance(error, OSError) else "not a UTF-8 text"
            raise ModelError(f"--chat-template {value}: {reason}") from error
        text = value
    if len(text) > _MAX_CHARS:
        raise ModelError(f"--chat-template {value[:100]}: longer than {_MAX_CHARS} characters")
    _check_syntax(text)
    return text


def _check_syntax(text: str) -> None:
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        environment.parse(GENERATION_TAG.sub("", text))
    except TemplateSyntaxError as error:
        raise ModelError(f"--chat-template: line {error.lineno}: {error.message}") from error


def _configured(file: Path) -> dict[str, str]:
    """Return the chat_template of a JSON file by name: a string, or a list of {name, template}."""
    value = read_json_object(file).get("chat_template")
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, list) and all(map(_is_named_template, value)):
        return {entry["name"]: entry["template"] for entry in value}
    raise ModelError(f"{file}: chat_template is neither a string nor a list of name and template")


def _is_named_template(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("template"), str)
    )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{file}: cannot be read: {error}") from error
