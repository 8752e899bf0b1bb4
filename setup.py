"""Maps the four source folders to the one package ``graphopt``; all metadata is in setup.cfg.

    graphopt/ -> graphopt             passes/ -> graphopt.passes
    backends/ -> graphopt.backends    models/ -> graphopt.models

The list of packages is computed, since a hand-written one loses packages silently. The build happens in a
temporary folder: setuptools never cleans ``build/lib``, so a module that was deleted from the tree would
come back in the next wheel (docs/decisions/0002-clean-builds.md).
"""

from __future__ import annotations

from tempfile import TemporaryDirectory

from setuptools import find_packages, setup

ROOTS = {
    "graphopt": "graphopt",
    "graphopt.passes": "passes",
    "graphopt.backends": "backends",
    "graphopt.models": "models",
}


def packages() -> list[str]:
    """Every package below the four roots, under its importable name."""
    found: list[str] = []
    for name, folder in ROOTS.items():
        found.append(name)
        found.extend(f"{name}.{inner}" for inner in find_packages(folder))
    return sorted(found)


with TemporaryDirectory(prefix="graphopt-build-") as build_base:
    setup(
        package_dir=dict(ROOTS),
        packages=packages(),
        options={"build": {"build_base": build_base}},
    )
