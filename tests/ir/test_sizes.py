"""Sizes give the answers of SymPy, sooner."""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Callable
from itertools import product
from typing import Any

import onnx_ir as ir
import pytest
import sympy

from graphopt.ir.sizes import named, sized

TEXTS = ("N", "N - 1", "N + 3", "2*N", "M*N", "-N", "floor(N/2)", "floor(N/2 - 1/2) + 1", "floor(4*M/N)", "Min(8, N)")
OPERATIONS = (operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv, operator.mod)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_every_operation_gives_what_the_dimension_of_the_package_gives(operation: Callable[..., Any]):
    numbers: list[int | str] = [1, 2, 3, 32, -1]
    for left, right in product(TEXTS, [*numbers, *TEXTS]):
        plain = operation(ir.SymbolicDim(left), right if isinstance(right, int) else ir.SymbolicDim(right))
        size = operation(named(left), right if isinstance(right, int) else named(right))
        assert size == plain, f"{left} {operation.__name__} {right}"


def test_numbers_on_the_left_and_single_operands_too():
    plain, size = ir.SymbolicDim("N"), named("N")
    assert 2 + size == 2 + plain
    assert 2 - size == 2 - plain
    assert 2 * size == 2 * plain
    assert -size == -plain
    assert math.ceil(size / 2) == math.ceil(plain / 2)


def random_size(dice: random.Random, depth: int) -> sympy.Expr:
    """A sum of multiples of sizes and of rounded quotients, as windows and reshapes make them."""
    total = sympy.Integer(dice.randint(-3, 5))
    for _ in range(dice.randint(1, 3)):
        atom = sympy.Symbol(dice.choice("abc"), integer=True, positive=True)
        if depth and dice.random() < 0.4:
            atom = sympy.floor(random_size(dice, depth - 1) / dice.randint(2, 5))
        total += dice.choice([1, 1, 2, -1, 4, 32]) * atom * (atom if dice.random() < 0.2 else 1)
    return total


@pytest.mark.parametrize("seed", range(40))
def test_quotients_are_rounded_and_written_as_sympy_does(seed: int):
    dice = random.Random(seed)
    above, below = random_size(dice, 2), dice.choice([sympy.Integer(2), sympy.Integer(32), random_size(dice, 0)])
    if above.is_number or below == 0:
        return
    wanted = str(sympy.floor(above / below))
    divisor = int(below) if below.is_number else sized(ir.SymbolicDim(below))
    assert str(sized(ir.SymbolicDim(above)) // divisor) == wanted


def test_a_size_is_worked_out_once():
    first, second = named("N") + 1, named("N") + 1
    assert first is second
    assert named("N") is named("N")


def test_a_dimension_of_the_package_becomes_a_size_and_an_unknown_one_stays():
    plain, unknown = ir.SymbolicDim("N") * 2, ir.SymbolicDim(None)
    assert sized(plain) == plain
    assert sized(plain) is named("2*N")
    assert sized(unknown) is unknown
    assert (named("N") + unknown).value is None


def test_other_numbers_are_refused_as_before():
    with pytest.raises(TypeError):
        _ = named("N") + 0.5  # pyright: ignore[reportOperatorIssue]
