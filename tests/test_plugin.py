"""A third party's passes and recipes are found by their entry points, and names stay unique."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TELL = """
import sys
from graphopt.pipeline.recipe import Recipe, recipes
from graphopt.pipeline.registry import find, names
"""

RUN = """
import onnx
import onnx_ir
from graphopt import PassManager, Recipe

head = '<ir_version: 10, opset_import: ["" : 20]> g (float[2, "n"] x) => (float[2, "n"] y)'
model = onnx_ir.from_proto(onnx.parser.parse_model(head + "{{ a = Relu(x) b = Relu(a) y = Relu(b) }}"))
result, outcomes = PassManager(Recipe.parse({recipe!r})).run(model)
print(sum(1 for node in result.graph), len(outcomes[0].changed), outcomes.verdict.ok)
"""


def run(code: str, *folders: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def output(code: str, *folders: Path) -> str:
    done = run(code, *folders)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def toy(tmp_path_factory, pip_install: Callable[[Path, Path], None], root: Path) -> Path:
    """The toy package, installed."""
    source = shutil.copytree(root / "tests" / "plugin", tmp_path_factory.mktemp("source") / "toy")
    target = tmp_path_factory.mktemp("toy")
    pip_install(source, target)
    return target


@pytest.fixture(scope="module")
def rival(tmp_path_factory, pip_install: Callable[[Path, Path], None], root: Path) -> Path:
    """The same package under another name: a second author had the same idea."""
    source = shutil.copytree(root / "tests" / "plugin", tmp_path_factory.mktemp("source") / "rival")
    (source / "graphopt_toy").rename(source / "graphopt_rival")
    setup = (source / "setup.cfg").read_text()
    setup = setup.replace("graphopt-toy", "graphopt-rival").replace("graphopt_toy", "graphopt_rival")
    (source / "setup.cfg").write_text(setup)
    target = tmp_path_factory.mktemp("rival")
    pip_install(source, target)
    return target


def test_the_pass_of_an_installed_package_is_listed_and_found(toy: Path) -> None:
    code = TELL + "print('toy-merge-relus' in names(), find('toy-merge-relus').__module__)"
    assert output(code, toy).split() == ["True", "graphopt_toy.toy_merge_relus"]
    assert output(TELL + "print('toy-merge-relus' in names())").split() == ["False"]


def test_listing_passes_does_not_import_the_package_that_brings_one(toy: Path) -> None:
    assert output(TELL + "names()\nprint('graphopt_toy' in sys.modules)", toy).split() == ["False"]


def test_the_recipe_of_an_installed_package_is_listed_and_parsed(toy: Path) -> None:
    code = TELL + "print('toy' in recipes(), Recipe.parse('toy'))"
    assert output(code, toy).split() == ["True", "toy-merge-relus{longest=3}"]


@pytest.mark.parametrize("recipe", ["toy", "toy-merge-relus"])
def test_the_pass_of_an_installed_package_runs_and_is_verified(toy: Path, recipe: str) -> None:
    assert output(RUN.format(recipe=recipe), toy).split() == ["1", "2", "True"]


def test_a_misspelt_name_of_an_installed_package_gets_a_suggestion(toy: Path) -> None:
    done = run(TELL + "find('toy-merge-relu')", toy)
    assert "did you mean 'toy-merge-relus'?" in done.stderr


def test_a_pass_name_that_two_packages_use_is_an_error_naming_both(toy: Path, rival: Path) -> None:
    done = run(TELL + "names()", toy, rival)
    assert done.returncode == 1
    assert "two passes are called 'toy-merge-relus'" in done.stderr
    for author in ("graphopt_toy", "graphopt_rival", "graphopt-toy", "graphopt-rival"):
        assert author in done.stderr


def test_a_recipe_name_that_two_packages_use_is_an_error_naming_both(toy: Path, rival: Path) -> None:
    done = run(TELL + "recipes()", toy, rival)
    assert done.returncode == 1
    assert "two recipes are called 'toy'" in done.stderr
    assert "graphopt_rival" in done.stderr
    assert "graphopt_toy" in done.stderr


def test_a_plug_in_cannot_take_the_name_of_a_pass_that_graphopt_has(
    tmp_path: Path, pip_install: Callable[[Path, Path], None], root: Path
) -> None:
    (taken, *_) = output(TELL + "print(*names())").split()
    source = shutil.copytree(root / "tests" / "plugin", tmp_path / "thief")
    setup = (source / "setup.cfg").read_text().replace("toy-merge-relus =", f"{taken} =")
    (source / "setup.cfg").write_text(setup)
    pip_install(source, tmp_path / "installed")
    done = run(TELL + "names()", tmp_path / "installed")
    assert f"two passes are called '{taken}'" in done.stderr
    assert "graphopt-toy" in done.stderr


def test_an_entry_point_that_is_no_pass_of_that_name_is_an_error_naming_its_package(
    tmp_path: Path, pip_install: Callable[[Path, Path], None], root: Path
) -> None:
    source = shutil.copytree(root / "tests" / "plugin", tmp_path / "toy")
    setup = (source / "setup.cfg").read_text().replace(":ToyMergeRelus", ":Site")
    (source / "setup.cfg").write_text(setup)
    pip_install(source, tmp_path / "installed")
    done = run(TELL + "find('toy-merge-relus')", tmp_path / "installed")
    assert "is no pass of that name" in done.stderr
    assert "graphopt-toy" in done.stderr


BACKENDS = """
import onnx_ir
from graphopt import find_backend, find_target
from graphopt.backends.registry import names
"""


def test_the_backend_of_an_installed_package_is_listed_and_used(toy: Path) -> None:
    model = "onnx_ir.from_onnx_text('<ir_version: 8, opset_import: [\"\": 17]> g (float[1] x) => (float[1] y) { y = Relu(x) }')"
    code = BACKENDS + f"print(names(), find_backend('toy').compile({model}, find_target('onnx'), None))"
    assert output(code, toy).strip() == "['onnxruntime', 'toy'] 1"
    assert output(BACKENDS + "print(names())").strip() == "['onnxruntime']"


def test_two_backends_of_one_name_are_an_error_that_names_both(toy: Path, rival: Path) -> None:
    done = run(BACKENDS + "names()", toy, rival)
    assert done.returncode != 0
    assert "graphopt_toy.toy_backend" in done.stderr and "graphopt_rival.toy_backend" in done.stderr


def test_a_backend_nobody_has_is_an_error_with_the_nearest_name() -> None:
    done = run(BACKENDS + "find_backend('onnxruntme')")
    assert "did you mean 'onnxruntime'" in done.stderr
