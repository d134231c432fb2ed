"""The wheel: its only top-level package, its modules, and an import without the repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """The files of the repository, relative to its root; links are among them."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files belong to the product")
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in names.split("\0") if name and os.path.lexists(ROOT / name)]


@pytest.fixture(scope="module")
def wheel(tracked: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel without the compiled kernels, which are optional and take long to build."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for file in tracked:
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, source / file, follow_symlinks=False)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    # No network: the build runs with the setuptools of this environment.
    command += ["--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(output), str(source)],
        env=os.environ | {"CC": "false", "CXX": "false"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = output.iterdir()
    return built


def test_top_level_is_headrace_alone(wheel: Path) -> None:
    top_level = {name.split("/")[0] for name in ZipFile(wheel).namelist()}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"headrace"}
    assert len(top_level) == 2


def test_every_module_of_the_product_is_in_it_once(wheel: Path, tracked: list[Path]) -> None:
    links = {file.name for file in tracked if (ROOT / file).is_symlink()}
    assert "launcher" in links, "the packages must have been found"
    modules = [file for file in tracked if file.suffix == ".py"]
    expected = [f"headrace/{file}" for file in modules if file.parts[0] in links]
    expected += [str(file) for file in modules if file.parts[0] == "headrace"]
    names = [name for name in ZipFile(wheel).namelist() if name.endswith(".py")]
    assert sorted(names) == sorted(expected)


def test_its_data_is_in_it(wheel: Path, tracked: list[Path]) -> None:
    data = [file for file in tracked if file.parts[0] == "launcher" and file.suffix == ".toml"]
    assert len(data) >= 3
    names = [name for name in ZipFile(wheel).namelist() if name.endswith(".toml")]
    assert sorted(names) == sorted(f"headrace/{file}" for file in data)


def test_no_tests_and_no_benchmarks_are_in_it(wheel: Path) -> None:
    folders = {part for name in ZipFile(wheel).namelist() for part in Path(name).parts[:-1]}
    assert not folders & {"tests", "bench", "scripts", "docs"}


def test_command_line_imports_from_it(wheel: Path, tmp_path: Path) -> None:
    unpacked, elsewhere = tmp_path / "unpacked", tmp_path / "elsewhere"
    elsewhere.mkdir()
    ZipFile(wheel).extractall(unpacked)
    program = "import headrace.launcher.command.cli as cli; print(cli.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(unpacked)
