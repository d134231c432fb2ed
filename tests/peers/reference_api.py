"""Run the reference's published tests of its HTTP API on a server of ours, and count:

    python -m tests.peers.reference_api SOURCE [--headrace COMMAND] [--only WORD] [--pytest FLAGS]

SOURCE is the unpacked source package of the reference (the sdist of vllm 0.33.0 on PyPI; it need
not be built). Its tests are copied to a temporary folder, together with stand-ins for what they
import of the reference: `tests.utils.RemoteOpenAIServer` starts our server with the test's own
flags, and every model that a test names is the default model here, under that name. Only tests
that ask a server are run. Many judge what a large model says; those fail with any small model.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

# Files whose tests need a server and any model for text.
FILES = """
    anthropic/test_messages.py
    generate/structured_decisions/test_structured_decisions_e2e.py
    generate/generative_scoring/test_generative_scoring_e2e.py
    openai/chat_completion/test_batched_chat_completions.py
    openai/chat_completion/test_chat.py
    openai/chat_completion/test_chat_completion.py
    openai/chat_completion/test_chat_echo.py
    openai/chat_completion/test_chat_logit_bias_validation.py
    openai/chat_completion/test_completion_with_function_calling.py
    openai/chat_completion/test_enable_force_include_usage.py
    openai/chat_completion/test_include_reasoning.py
    openai/chat_completion/test_logprob_token_ids.py
    openai/chat_completion/test_non_object_body_validation.py
    openai/chat_completion/test_root_path.py
    openai/chat_completion/test_thinking_token_budget.py
    openai/completion/test_completion.py
    openai/completion/test_prompt_validation.py
    openai/completion/test_token_in_token_out.py
    openai/decisions/test_decisions_e2e.py
    openai/models/test_models.py
    openai/responses/test_basic.py
    openai/responses/test_errors.py
    openai/responses/test_function_call.py
    openai/responses/test_parsable_context.py
    openai/responses/test_simple.py
    openai/responses/test_stateful.py
    openai/responses/test_structured_output.py
    openai/test_return_token_ids.py
    openai/test_return_tokens_as_ids.py
    serve/dev/rpc/test_collective_rpc.py
    serve/instrumentator/test_basic.py
    serve/instrumentator/test_metrics.py
    serve/instrumentator/test_orca_metrics.py
    serve/instrumentator/test_uds.py
    serve/middleware/test_cors_middleware.py
    serve/sagemaker/test_sagemaker_middleware_integration.py
    serve/tokenize/test_tokenization.py
"""
CONFTESTS = ("openai/responses/conftest.py", "serve/sagemaker/conftest.py")
_RESULT = re.compile(r"^(PASSED|FAILED|ERROR|SKIPPED)\b.*?tests/entrypoints/([\w/]+\.py)", re.M)
_STAND_INS = Path(__file__).parent / "reference_stand_ins"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--headrace", default=f"{sys.executable} -m headrace")
    parser.add_argument("--only", default="", help="run only files whose names hold this")
    parser.add_argument("--pytest", default="", help="more flags of pytest, as one word")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = _copy(args.source / "tests/entrypoints", folder, args.only)
        output = _run(folder, files, args.headrace, shlex.split(args.pytest))
    _print_counts(output)
    return 0


def _copy(source: Path, folder: Path, only: str) -> list[str]:
    """Copy the tests and the stand-ins; return the files to run, relative to the folder."""
    shutil.copytree(_STAND_INS, folder / "tests")
    wanted = [name for name in FILES.split() if only in name and (source / name).exists()]
    for name in (*wanted, *CONFTESTS):
        target = folder / "tests/entrypoints" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, target)
    for parent in (folder / "tests").rglob("*/"):
        (parent / "__init__.py").touch()
    (folder / "tests/__init__.py").touch()
    shutil.move(folder / "tests/plugin.py", folder / "reference_plugin.py")
    (folder / "pytest.ini").write_text("[pytest]\n")
    return [f"tests/entrypoints/{name}" for name in wanted]


def _run(folder: Path, files: list[str], headrace: str, flags: list[str]) -> str:
    """Run the tests; return pytest's output, which is printed as well."""
    environment = os.environ | {"HEADRACE_COMMAND": headrace, "PYTHONPATH": _with_path(folder)}
    command = [sys.executable, "-m", "pytest", "-p", "reference_plugin", "-rA", "--tb=line", "-q"]
    command += ["--timeout=300", "--continue-on-collection-errors", *flags, *files]
    print(shlex.join(command), flush=True)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    print(done.stdout[-200_000:], done.stderr[-5_000:])
    return done.stdout


def _with_path(folder: Path) -> str:
    more = os.environ.get("PYTHONPATH")
    return f"{folder}:{more}" if more else str(folder)


def _print_counts(output: str) -> None:
    results = Counter((file, result) for result, file in _RESULT.findall(output))
    columns = ("PASSED", "FAILED", "ERROR", "SKIPPED")
    print("| file | " + " | ".join(columns).lower() + " |")
    for file in sorted({file for file, _ in results}):
        print(f"| {file} | " + " | ".join(str(results[file, each]) for each in columns) + " |")
    totals = (str(sum(results[f, each] for f, e in results if e == each)) for each in columns)
    print("| all | " + " | ".join(totals) + " |")


if __name__ == "__main__":
    sys.exit(main())
