"""A model's chat templates, from all the files in which models keep them."""

import json
import re
import subprocess
import sys
from pathlib import Path

from headrace.launcher.models.model_cache import Progress, cached, joint_digest
from headrace.launcher.models.model_folder import ModelError, read_json_object
from headrace.protocol.text import TextInfo

# transformers' own block, which marks the assistant's tokens for training and has no effect here
GENERATION_TAG = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")

CHECKER = "headrace.frontend.chat.check_templates"
CHECK_VERSION = "1"  # another number has all templates checked again
DEADLINE_S = 5.0  # for a few short chats
CHECK_TIMEOUT_S = 60.0
_CHECKED = "checked"
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


def check_templates(info: TextInfo, origin: str, cache: Path, progress: Progress) -> None:
    """Check that all templates compile, and end: frontends could not start with one that does not.

    A process of its own does, once for the same templates.

    origin: of the templates, for the error.
    Raises ModelError if one is invalid.
    """
    templates = {"" if name is None else name: text for name, text in _templates(info)}
    if not templates:
        return
    tokens = {
        name: value
        for name in ("bos_token", "eos_token", "pad_token", "unk_token")
        if (value := getattr(info, name))
    }
    job = json.dumps({"templates": templates, "special_tokens": tokens, "deadline_s": DEADLINE_S})

    def build(entry: Path) -> None:
        _run_checker(job, origin)
        (entry / _CHECKED).write_text(CHECK_VERSION)

    cached(cache / "templates" / joint_digest([CHECK_VERSION, job]), build, progress)


def _templates(info: TextInfo) -> list[tuple[str | None, str]]:
    default = [] if info.chat_template is None else [(None, info.chat_template)]
    return [*default, *info.chat_templates.items()]


def _run_checker(job: str, origin: str) -> None:
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", CHECKER],
            input=job.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=CHECK_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"{origin}: chat template: it does not end") from None
    if done.returncode != 0:
        lines = done.stdout.decode(errors="replace").splitlines()
        reason = lines[-1] if lines else "chat template: it takes too much time or memory"
        raise ModelError(f"{origin}: {reason}")


def _check_syntax(text: str) -> None:
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        environment.parse(GENERATION_TAG.sub("", text))
    except TemplateSyntaxError as error:
        raise ModelError(f"--chat-template: line {error.lineno}: {error.message}") from error
    except RecursionError as error:
        raise ModelError("--chat-template: it is nested too deeply") from error


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
