"""What all tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent

# A slow machine is no bug, and a failure in CI must come back on the next run.
_SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.filter_too_much]
settings.register_profile("default", deadline=None, suppress_health_check=_SLOW_IS_FINE)
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The source tree the tests belong to."""
    return ROOT


@pytest.fixture(scope="session", autouse=True)
def no_profiles_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What somebody measured on this machine (``graphopt profile-target``) changes no test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAPHOPT_PROFILES", str(tmp_path_factory.mktemp("profiles")))
        yield


@pytest.fixture(scope="session")
def pip_install() -> Callable[[Path, Path], None]:
    """Installs the project in a folder into a target folder, without a network and dependencies."""

    def install(project: Path, target: Path) -> None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(target), str(project)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return install


@pytest.fixture(scope="session")
def source_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built from: building leaves nothing in the tree and meets no other build."""
    copy = tmp_path_factory.mktemp("source") / "graphopt"
    copy.mkdir()
    for name in ("graphopt", "passes", "backends", "models", "tests", "docs", "benchmarks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="session")
def installed_tree(
    source_copy: Path, tmp_path_factory: pytest.TempPathFactory, pip_install: Callable[[Path, Path], None]
) -> Path:
    """graphopt as a user has it: the four roots joined into one package."""
    target = tmp_path_factory.mktemp("installed")
    pip_install(source_copy, target)
    return target
