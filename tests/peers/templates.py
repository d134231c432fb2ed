"""Examine the chat templates of real models: which formats `auto` finds in them.

Takes source distributions (`.tar.gz`) or folders and examines every `*.jinja` in them:

    pip download --no-deps --no-binary llama-cpp-python llama-cpp-python -d sdists
    python -P -m tests.peers.templates sdists/*.tar.gz

Prints a table and counts. Archives are unpacked to a temporary folder.
"""

import argparse
import re
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from headrace.frontend.chat.detection.reasoning_format import find_reasoning_format
from headrace.frontend.chat.detection.tool_format import find_tool_format
from headrace.frontend.chat.templates import ChatTemplate
from headrace.frontend.chat.tools.available import available_parsers

# A template comes without its tokenizer: texts of this form are taken for special tokens.
_SPECIAL = re.compile(
    r"<[|｜][^<>\s|｜]{1,60}[|｜]>|<\|[a-z_]+>|<[a-z]+_of_turn>|\[/?[A-Z_]{3,20}\]|</?s>"
)
_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def sources(paths: list[Path], folder: Path) -> Iterator[Path]:
    """Yield the template files of archives and folders, unpacking archives to `folder`."""
    for number, path in enumerate(paths):
        root = path
        if path.is_file() and path.name.endswith(".tar.gz"):
            root = folder / str(number)
            with tarfile.open(path) as archive:
                names = [each for each in archive.getmembers() if each.name.endswith(".jinja")]
                archive.extractall(root, names, filter="data")
        yield from [root] if root.suffix == ".jinja" else sorted(root.rglob("*.jinja"))


def examine(path: Path) -> tuple[str, str, str]:
    """Return what is found in a template: the tool format, the reasoning format, evidence."""
    try:
        template = ChatTemplate(path.read_text(), _TOKENS)
    except ValueError as error:
        return "-", "-", f"cannot be compiled: {error}"[:80]
    special = {*_SPECIAL.findall(template.source), *_TOKENS.values()}
    delimiters = {text for _, parser in available_parsers() for text in parser.delimiters}
    tools = find_tool_format(template, special, special - delimiters, special)
    reasoning = find_reasoning_format(template)
    evidence = [each.evidence for each in (tools, reasoning) if each is not None]
    return (
        tools.name if tools else "-",
        reasoning.name if reasoning else "-",
        "; ".join(evidence),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, help="archives, folders or templates")
    paths = parser.parse_args().paths
    counts = {"templates": 0, "tool format": 0, "reasoning format": 0}
    seen = set[str]()
    with tempfile.TemporaryDirectory() as folder:
        for path in sources(paths, Path(folder)):
            if path.read_text() in seen:
                continue
            seen.add(path.read_text())
            tools, reasoning, evidence = examine(path)
            counts["templates"] += 1
            counts["tool format"] += tools != "-"
            counts["reasoning format"] += reasoning != "-"
            print(f"{path.stem[:52]:52} {tools:16} {reasoning:16} {evidence}")
    print(", ".join(f"{what}: {count}" for what, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
