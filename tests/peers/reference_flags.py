"""Compare our list of the reference's flags with its source.

Usage: python -P tests/peers/reference_flags.py FOLDER [--write]

FOLDER holds an unpacked source distribution of vllm, which is read as text: nothing of it is
imported or built. The exit status is 1 if the list differs; --write replaces it.
"""

import argparse
import ast
import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FLAGS = ROOT / "launcher" / "command" / "reference_flags.toml"
EARLIER = "\n[earlier]\n"  # what follows is no part of the current version, and kept as it is
_FRONTEND = Path("vllm/entrypoints/common/cli_args.py")
_ENGINE = Path("vllm/engine/arg_utils.py")
_FRONTEND_CLASSES = ("BaseFrontendArgs", "FrontendArgs")
# Kinds that are set in code, where this script cannot see them.
_KINDS = {
    "--allowed-origins": "json",
    "--allowed-methods": "json",
    "--allowed-headers": "json",
    "--config-format": "value",
    "--limit-mm-per-prompt": "json",
    "--logging-config": "json",
    "--middleware": "append",
}
_MISSING = object()

Fields = dict[str, tuple[str, Any]]


def main() -> int:
    """Compare or write the list; return the exit status."""
    parser = argparse.ArgumentParser(description="Compare the list of the reference's flags.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true", help="replace the list")
    args = parser.parse_args()
    version = next(
        line.removeprefix("Version: ").strip()
        for line in (args.folder / "PKG-INFO").read_text().splitlines()
        if line.startswith("Version: ")
    )
    found = extract(args.folder)
    if args.write:
        _write(version, found)
        return 0
    listed = tomllib.loads(FLAGS.read_text())
    status = 0
    for section, flags in found.items():
        for name in sorted(flags.keys() | listed[section].keys()):
            if flags.get(name) != listed[section].get(name):
                print(f"{name}: {version}: {flags.get(name)}, listed: {listed[section].get(name)}")
                status = 1
    print(f"{sum(map(len, found.values()))} flags of {version}")
    return status


def extract(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the flags of the sections "frontend" and "engine" by their names."""
    configs: dict[str, Fields] = {}
    for file in sorted((folder / "vllm" / "config").glob("*.py")):
        configs |= _classes(ast.parse(file.read_text()))
    frontend_source = ast.parse((folder / _FRONTEND).read_text())
    own = _classes(frontend_source)
    frontend = {
        "--" + name.replace("_", "-"): _described(annotation, default)
        for of_class in _FRONTEND_CLASSES
        for name, (annotation, default) in own[of_class].items()
    }
    frontend |= dict(_added(frontend_source, configs))
    engine = dict(_added(ast.parse((folder / _ENGINE).read_text()), configs))
    for name, kind in _KINDS.items():
        (frontend if name in frontend else engine)[name]["kind"] = kind
    return {
        "frontend": frontend,
        "engine": {name: flag for name, flag in engine.items() if name not in frontend},
    }


def _classes(source: ast.Module) -> dict[str, Fields]:
    """Return the annotated fields of each class."""
    return {
        node.name: {
            field.target.id: (ast.unparse(field.annotation), _default(field.value))
            for field in node.body
            if isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and not field.target.id.startswith("_")
        }
        for node in ast.walk(source)
        if isinstance(node, ast.ClassDef)
    }


def _default(node: ast.expr | None) -> Any:
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Field", "field"):
        values = {word.arg: word.value for word in node.keywords}
        node = values.get("default", node.args[0] if node.args else None)
    try:
        return _MISSING if node is None else ast.literal_eval(node)
    except ValueError:
        return _MISSING


def _added(source: ast.Module, configs: dict[str, Fields]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what calls of add_argument add."""
    classes = {
        ast.unparse(node.targets[0]): ast.unparse(node.value.args[0])
        for node in ast.walk(source)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) == "get_kwargs"
    }
    for node in ast.walk(source):
        if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith("add_argument"):
            continue
        names = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        long = [name for name in names if str(name).startswith("--")]
        if not long:
            continue
        flag = _described(*_field_of(node, classes, configs))
        if others := [name for name in names if name != long[0]]:
            flag["also"] = others
        yield str(long[0]), flag


def _field_of(
    call: ast.Call, classes: dict[str, str], configs: dict[str, Fields]
) -> tuple[str, Any]:
    """Return annotation and default of the field that a call of add_argument is about."""
    given = {word.arg: word.value for word in call.keywords if word.arg is not None}
    default = _default(given["default"]) if "default" in given else _MISSING
    if "action" in given:
        action = ast.unparse(given["action"])
        if "store_true" in action:
            return "store_true", False
        if "Boolean" in action:
            return "bool", default
    for node in ast.walk(call):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) in classes:
            of_class = configs.get(classes[ast.unparse(node.value)], {})
            found = of_class.get(str(ast.literal_eval(node.slice)), ("str", _MISSING))
            return found[0], found[1] if default is _MISSING else default
    return "str", default


def _described(annotation: str, default: Any) -> dict[str, Any]:
    flag: dict[str, Any] = {"kind": _kind(annotation)}
    if isinstance(default, bool | int | float | str):
        flag["default"] = default
    return flag


def _kind(annotation: str) -> str:
    if annotation == "store_true":
        return "set"
    if "bool" in annotation:
        return "optional" if "str" in annotation else "switch"
    if annotation.startswith(("list", "set", "tuple")):
        return "values"
    if "dict" in annotation or "Config" in annotation or annotation == "HfOverrides":
        return "json"
    return "values" if "list[" in annotation else "value"


def _write(version: str, found: dict[str, dict[str, dict[str, Any]]]) -> None:
    kept = FLAGS.read_text().partition(EARLIER)[2] if FLAGS.exists() else ""
    lines = [
        "# Flags of the reference (vLLM), as facts: its names, kinds and defaults. Written by",
        "# tests/peers/reference_flags.py, but for [earlier]: flags of versions before this one.",
        f'version = "{version}"',
    ]
    for section, flags in found.items():
        lines += ["", f"[{section}]"]
        for name, flag in flags.items():
            values = ", ".join(f"{key} = {json.dumps(value)}" for key, value in flag.items())
            lines.append(f"{name} = {{ {values} }}")
    FLAGS.write_text("\n".join(lines) + "\n" + EARLIER + kept)


if __name__ == "__main__":
    sys.exit(main())
