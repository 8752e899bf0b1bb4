"""What a user gets from `pip install` is what the tree holds, under one name each, and it starts fast."""

from __future__ import annotations

import configparser
import importlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOTS = {
    "graphopt": "graphopt",
    "passes": "graphopt/passes",
    "backends": "graphopt/backends",
    "models": "graphopt/models",
}
HEAVY = (
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "onnx_graphsurgeon",
    "sympy",
    "numpy",
    "torch",
    "tvm",
)
BUILD = "import sys; from setuptools import build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"


def files_of(source: Path) -> set[str]:
    """The files a user must get, by the path they are installed under."""
    return {
        f"{target}/{file.relative_to(source / folder)}"
        for folder, target in ROOTS.items()
        for file in (source / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def files_in(tree: Path) -> set[str]:
    return {
        str(file.relative_to(tree))
        for file in (tree / "graphopt").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def python(*arguments: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python; `path` stands before everything that is installed."""
    prepare = f"import sys; sys.path.insert(0, {str(path)!r});" if path else ""
    if arguments[0] == "-c":
        arguments = ("-c", prepare + arguments[1], *arguments[2:])
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def loaded_by(code: str, cwd: Path) -> set[str]:
    """The heavy packages that running `code` in a fresh interpreter imports."""
    tell = f"import sys\n{code}\nprint('|' + ' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    done = python("-c", tell, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("|")[2].split())


def test_an_installed_graphopt_holds_every_file_of_the_four_folders_and_no_other(
    source_copy: Path, installed_tree: Path
) -> None:
    assert files_in(installed_tree) == files_of(source_copy)


def test_a_wheel_made_from_the_source_distribution_holds_every_file(source_copy: Path, tmp_path: Path) -> None:
    made = python("-c", BUILD, "build_sdist", str(tmp_path), cwd=source_copy)
    assert made.returncode == 0, made.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11 has it from 3.11.4 on
        tar.extractall(tmp_path, **safely)
    (unpacked,) = (item for item in tmp_path.iterdir() if item.is_dir())
    made = python("-c", BUILD, "build_wheel", str(tmp_path), cwd=unpacked)
    assert made.returncode == 0, made.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        names = {name for name in content.namelist() if not name.split("/")[0].endswith(".dist-info")}
        (licence,) = (name for name in content.namelist() if name.endswith("LICENSE"))
        assert b"Apache License" in content.read(licence)
    assert names == files_of(source_copy)


def test_the_source_distribution_carries_its_tests_and_docs(source_copy: Path, tmp_path: Path) -> None:
    made = python("-c", BUILD, "build_sdist", str(tmp_path), cwd=source_copy)
    assert made.returncode == 0, made.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"tests/test_packaging.py", "tests/plugin/setup.cfg", "docs/README.md", "setup.py"} <= names


def test_a_module_left_in_an_old_build_folder_is_not_installed(
    source_copy: Path, tmp_path: Path, pip_install: Callable[[Path, Path], None]
) -> None:
    source = shutil.copytree(source_copy, tmp_path / "source")
    stale = source / "build" / "lib" / "graphopt" / "stale.py"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    pip_install(source, tmp_path / "installed")
    assert files_in(tmp_path / "installed") == files_of(source)


def test_every_installed_module_can_be_found_under_its_one_name(installed_tree: Path, tmp_path: Path) -> None:
    code = (
        "import pkgutil, graphopt;"
        "names = (module.name for module in pkgutil.walk_packages(graphopt.__path__, 'graphopt.'));"
        "print(graphopt.__file__, *names)"
    )
    done = python("-c", code, cwd=tmp_path, path=installed_tree)
    assert done.returncode == 0, done.stderr
    place, *names = done.stdout.split()
    assert place == str(installed_tree / "graphopt" / "__init__.py")
    files = (file for file in files_in(installed_tree) if file.endswith(".py"))
    expected = {file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in files}
    assert set(names) == expected - {"graphopt"}


@pytest.mark.parametrize("folder", ["passes", "backends", "models"])
def test_a_mapped_folder_refuses_to_be_imported_under_its_bare_name(folder: str, root: Path) -> None:
    done = python("-c", f"import {folder}", cwd=root)
    assert done.returncode == 1
    assert "ImportError" in done.stderr
    assert f"graphopt.{folder}" in done.stderr.splitlines()[-1]
    importlib.import_module(f"graphopt.{folder}")


def test_importing_graphopt_loads_nothing_heavy(tmp_path: Path) -> None:
    assert loaded_by("import graphopt", tmp_path) == set()


def test_asking_for_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import contextlib, io, sys\n"
        "sys.argv = ['graphopt', '--help']\n"
        "from graphopt.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):\n"
        "    main()\n"
        "assert 'optimize' in out.getvalue()"
    )
    assert loaded_by(code, tmp_path) == set()


def test_the_console_script_is_graphopts_command_line() -> None:
    (script,) = entry_points(group="console_scripts", name="graphopt")
    assert script.value == "graphopt.cli:main"
    assert callable(script.load())


def test_running_the_package_is_the_same_as_the_console_script(tmp_path: Path) -> None:
    done = python("-m", "graphopt", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "optimize" in done.stdout


def test_the_version_is_the_one_in_the_metadata(root: Path) -> None:
    import graphopt

    metadata = configparser.ConfigParser()
    metadata.read(root / "setup.cfg")
    assert graphopt.__version__ == metadata["metadata"]["version"]
