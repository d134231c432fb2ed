"""The one import root, the sizes of folders, files and functions, and imports between modules."""

import ast
import importlib.util
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("console", "coordinator", "frontend", "launcher", "protocol", "workers")
MAX_MODULES = 25  # in one folder
MAX_LINES = 500  # of one file
MAX_FUNCTION = 75  # lines


def modules() -> dict[str, Path]:
    """Return the product's modules by their dotted names."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(("headrace", *parts))
            found[name.removesuffix(".__init__")] = path
    return found


def imported(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield the product's modules that a module imports, at its top or later, other than itself.

    Imports for type checkers alone do not count: they are never executed.
    """
    tree = ast.parse(path.read_text())
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inner_names = [f"{node.module}.{each.name}" for each in node.names]
            names = [each if each in known else str(node.module) for each in inner_names]
        else:
            continue
        yield from (each for each in names if each in known and each != name)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_imported_from_one_root(package: str) -> None:
    """If `protocol` were importable besides `headrace.protocol`, each class would exist twice."""
    assert str(ROOT) not in [str(Path(each).resolve()) for each in sys.path]
    spec = importlib.util.find_spec(package)
    assert spec is None or not str(spec.origin).startswith(str(ROOT)), f"{package}: {spec}"
    assert (ROOT / "headrace" / package).resolve() == ROOT / package


def test_all_imports_name_the_root() -> None:
    for folder in (*PACKAGES, "headrace", "bench", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom):
                    names = [node.module or ""] if node.level == 0 else []
                elif isinstance(node, ast.Import):
                    names = [each.name for each in node.names]
                else:
                    continue
                for name in names:
                    assert name.partition(".")[0] not in PACKAGES, f"{path}:{node.lineno}: {name}"


def test_no_module_imports_itself_through_others() -> None:
    known = modules()
    arrows = {name: set(imported(name, path, known)) for name, path in known.items()}
    assert sum(map(len, arrows.values())) > 500, "the imports must have been found"
    try:
        list(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_frontends_and_the_protocol_import_no_engine() -> None:
    known = modules()
    for name, path in known.items():
        if name.split(".")[1] not in ("frontend", "protocol"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for each in names:
                first = each.removeprefix("headrace.").partition(".")[0]
                assert first not in ("torch", "transformers", "workers"), f"{path}: {each}"


def test_folders_stay_small() -> None:
    folders = Counter(
        path.parent
        for folder in (*PACKAGES, "headrace", "bench", "tests")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__init__.py"
    )
    large = {str(folder): count for folder, count in folders.items() if count > MAX_MODULES}
    assert not large


def test_files_and_functions_stay_short() -> None:
    long = []
    for folder in (*PACKAGES, "bench", "scripts", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            long += [(str(path), "")] if text.count("\n") > MAX_LINES else []
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines = (node.end_lineno or 0) - node.lineno + 1
                    long += [(str(path), node.name)] if lines > MAX_FUNCTION else []
    assert long == []


def test_no_two_public_classes_share_a_name() -> None:
    definitions = defaultdict(list)
    for name, path in modules().items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                definitions[node.name].append(name)
    assert {key: value for key, value in definitions.items() if len(value) > 1} == {}
