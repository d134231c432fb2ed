"""Run the reference's published tests of its tool parsers on ours, and count:

    python -m tests.peers.tool_parsers SOURCE [-- PYTEST FLAGS]

SOURCE is the unpacked source package of the reference (the sdist of vllm 0.33.0 on PyPI; it need
not be built). Its tests are copied to a temporary folder and find stand-ins for what they import of
the reference. Many ask for what we do otherwise: text after a call is content here, JSON keeps the
model's spacing, a stream's last white space comes with its end, and internals of the reference's
parsers are not here.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PLUGIN = Path(__file__).parent / "reference_stand_ins" / "parser_stand_ins.py"
# Tests of functions that the reference's parsers share.
INTERNAL = ("test_utils.py", "test_structural_tag_registry.py")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tool_parsers")
    parser.add_argument("source", type=Path)
    parser.add_argument("flags", nargs="*", help="flags of pytest, after --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copytree(args.source / "tests/tool_parsers", root / "tests/tool_parsers")
        for part in ("engine", "cohere"):  # helpers that the tests import
            shutil.copytree(args.source / "tests/parser" / part, root / "tests/parser" / part)
        (root / "tests/parser/__init__.py").touch()
        for name in INTERNAL:
            (root / "tests/tool_parsers" / name).unlink()
        (root / "tests/__init__.py").touch()
        shutil.copy(PLUGIN, root)
        path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path, "REFERENCE": str(args.source.absolute())}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            PLUGIN.stem,
            "-q",
            "--tb=no",
            "-rN",
            "-W",
            "ignore",
        ]
        return subprocess.run(
            [
                *command,
                "--rootdir",
                folder,
                "-p",
                "no:cacheprovider",
                "--continue-on-collection-errors",
                *args.flags,
                "tests/tool_parsers",
            ],
            cwd=folder,
            env=environment,
            check=False,
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
