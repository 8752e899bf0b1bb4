"""`import graphopt as go` offers what its table says, to people and to type checkers alike."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import graphopt

FACE: dict[str, str] = graphopt._FACE


@pytest.mark.parametrize("name", sorted(FACE))
def test_a_public_name_is_the_object_of_its_module(name: str) -> None:
    assert getattr(graphopt, name) is getattr(importlib.import_module(FACE[name]), name)
    assert name in dir(graphopt)


def test_type_checkers_see_the_same_names_from_the_same_modules(root: Path) -> None:
    tree = ast.parse((root / "graphopt" / "__init__.py").read_text())
    block = next(item for item in tree.body if isinstance(item, ast.If))
    seen = {
        alias.asname: item.module for item in block.body if isinstance(item, ast.ImportFrom) for alias in item.names
    }
    assert seen == FACE


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantum'"):
        _ = graphopt.quantum
