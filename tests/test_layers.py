"""The floors of the house: a file imports only from floors below, and the face is for users only."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDERS = ("graphopt", "passes", "backends", "models")


def check_floors(tree: Path, root: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from importlinter.cli import lint_imports_command as main; sys.exit(main())"
    command = [sys.executable, "-c", code, "--config", str(root / "setup.cfg"), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)


def modules(root: Path) -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted((root / folder).rglob("*.py"))


def test_no_file_imports_from_a_floor_above(installed_tree: Path, root: Path) -> None:
    done = check_floors(installed_tree, root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "KEPT" in done.stdout


def test_an_import_from_a_floor_above_is_noticed_in_a_mapped_folder(
    tmp_path: Path, root: Path, source_copy: Path, pip_install
) -> None:
    pip_install(source_copy, tmp_path)
    (tmp_path / "graphopt" / "passes" / "clean" / "upstart.py").write_text("import graphopt.backends\n")
    done = check_floors(tmp_path, root)
    assert done.returncode == 1
    assert "graphopt.passes.clean.upstart -> graphopt.backends" in done.stdout


def test_no_file_imports_the_public_face(root: Path) -> None:
    """The face reaches up to every floor, so inside the house each floor is named."""
    guilty: list[str] = []
    for file in modules(root):
        if file == root / "graphopt" / "__init__.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            bare = isinstance(node, ast.Import) and any(alias.name == "graphopt" for alias in node.names)
            names = isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "graphopt"
            if bare or (names and any(alias.name in vars_of_face(root) for alias in node.names)):
                guilty.append(f"{file.relative_to(root)}:{node.lineno}")
    assert guilty == []


def vars_of_face(root: Path) -> set[str]:
    import graphopt

    return set(graphopt._FACE) | {"__version__"}


@pytest.mark.parametrize("folder", ["passes", "backends", "models"])
def test_a_mapped_folder_names_the_core_in_full(folder: str, root: Path) -> None:
    """A relative import may not leave the folder, which lies elsewhere in the package than on disk."""
    guilty: list[str] = []
    for file in sorted((root / folder).rglob("*.py")):
        depth = len(file.relative_to(root / folder).parts)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level > depth:
                guilty.append(f"{file.relative_to(root)}:{node.lineno}")
    assert guilty == []
