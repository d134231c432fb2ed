"""Compare the perplexity of a GGUF served here with llama.cpp's of the same file.

    python -m bench.perplexity MODEL.gguf --llama FOLDER [--windows 40] [FLAG ...]

FOLDER holds `llama-perplexity`. Both read the same text, windows of 512 tokens of Python's manual
(`pydoc_data.topics`), and count the tokens of the second half of each window, as llama.cpp does.
Here the server computes them: `prompt_logprobs` of /v1/completions. Unknown flags go to `headrace
serve`.
"""

import argparse
import json
import math
import os
import pydoc_data.topics
import re
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from bench.beside_llama import headrace

WINDOW = 512
BYTES_PER_TOKEN = 6  # more than any text here takes on average


def main() -> None:
    """Print both perplexities, and how far apart they are."""
    parser = argparse.ArgumentParser(prog="bench.perplexity")
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL.gguf")
    add("--llama", type=Path, required=True, metavar="FOLDER", help="of llama-perplexity")
    add("--windows", type=int, default=40)
    add("--threads", type=int, default=os.cpu_count() or 1)
    given, flags = parser.parse_known_args()
    text = "\n".join(pydoc_data.topics.topics.values())
    text = text[: given.windows * WINDOW * BYTES_PER_TOKEN]
    with headrace(given.model, given.threads, flags) as server:
        ours = served(server.url, text, given.windows)
    theirs = llama(given, text)
    print(f"perplexity: {ours:.4f}, llama.cpp {theirs:.4f}, {ours / theirs - 1:+.2%}")


def served(url: str, text: str, windows: int) -> float:
    """Return the perplexity of a text's first windows, as the server computes it."""
    ids = _post(f"{url}/tokenize", {"prompt": text})["tokens"]
    begins = _post(f"{url}/tokenize", {"prompt": ""})["tokens"]  # what every text begins with
    surprise, count = 0.0, 0
    for number in range(windows):
        window = ids[number * WINDOW : (number + 1) * WINDOW]
        if len(window) < WINDOW:
            raise SystemExit("the text is too short for so many windows")
        window[: len(begins)] = begins
        body = {"prompt": window, "max_tokens": 1, "prompt_logprobs": 0}
        found = _post(f"{url}/v1/completions", body)["choices"][0]["prompt_logprobs"]
        for token, known in list(zip(window, found, strict=True))[WINDOW // 2 + 1 :]:
            surprise -= known[str(token)]["logprob"]
            count += 1
    return math.exp(surprise / count)


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def llama(given: argparse.Namespace, text: str) -> float:
    """Return llama.cpp's."""
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        file = Path(folder, "text")
        file.write_text(text)
        command = [str(given.llama / "llama-perplexity"), "-m", str(given.model), "-f", str(file)]
        command += ["-c", str(WINDOW), "--chunks", str(given.windows), "-t", str(given.threads)]
        run = subprocess.run(
            command,
            env={**os.environ, "LD_LIBRARY_PATH": str(given.llama)},
            capture_output=True,
            text=True,
            check=True,
        )
    found = re.search(r"Final estimate: PPL = ([\d.]+)", run.stdout + run.stderr)
    if found is None:
        raise SystemExit("llama-perplexity printed no estimate")
    return float(found[1])


if __name__ == "__main__":
    main()
