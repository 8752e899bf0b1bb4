"""GELU, Swish and Mish written at random: every way must be found, and compute the same afterwards."""

from __future__ import annotations

from math import pi, sqrt

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_gelu import FuseGelu
from graphopt.passes.fuse.fuse_mish import FuseMish
from graphopt.passes.fuse.fuse_swish import FuseSwish


class _Writer:
    """Writes expressions of x with random operators in a random order."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[str] = []
        self.constants: list[str] = []

    def op(self, operator: str, *operands: str) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(f"{name} = {operator}({', '.join(operands)})")
        return name

    def number(self, value: float) -> str:
        name = f"c{len(self.constants)}"
        rank = int(self.rng.integers(0, 3))
        dims = f"[{', '.join('1' * rank)}]" if rank else ""
        self.constants.append(f"float{dims} {name} = {{{np.format_float_positional(np.float32(value), trim='-')}}}")
        return name

    def flip(self) -> bool:
        return bool(self.rng.integers(2))

    def commuted(self, operator: str, *operands: str) -> str:
        return self.op(operator, *(operands[::-1] if self.flip() else operands))

    def scaled(self, value: str, factor: float) -> str:
        if factor < 0 and self.flip():
            return self.scaled(self.op("Neg", value), -factor)
        if self.flip():
            return self.op("Div", value, self.number(1 / factor))
        return self.commuted("Mul", value, self.number(factor))

    def product(self, *factors: str | float) -> str:
        """The factors multiplied in any order, grouped in any way; at least one is no number."""
        rest = [factors[index] for index in self.rng.permutation(len(factors))]
        while len(rest) > 1:
            left, right = rest.pop(), rest.pop()
            if isinstance(left, str) and isinstance(right, str):
                made: str | float = self.commuted("Mul", left, right)
            elif isinstance(left, str) or isinstance(right, str):
                value, factor = (left, right) if isinstance(left, str) else (right, left)
                made = self.scaled(str(value), float(factor))
            else:
                rest = [right, *rest, left]  # two numbers are never multiplied at run time
                continue
            rest.insert(int(self.rng.integers(len(rest) + 1)), made)
        return str(rest[0])

    def plus(self, value: str, number: float) -> str:
        if self.flip():
            return self.commuted(str(self.rng.choice(["Add", "Sum"])), value, self.number(number))
        return self.op("Sub", value, self.number(-number))

    def power(self, count: int) -> str:
        if self.flip():
            return self.op("Pow", "x", self.number(count))
        return self.product(*["x"] * count)

    def model(self, opset: int) -> ir.Model:
        self.nodes[-1] = self.nodes[-1].replace(self.nodes[-1].split(" =")[0], "y", 1)
        return ir.from_onnx_text(
            f"""<ir_version: 10, opset_import: ["": {opset}]> g (float[N, 3, 4] x) => (float[N, 3, 4] y)
                <{", ".join(self.constants)}> {{ {" ".join(self.nodes)} }}"""
        )


def _gelu(writer: _Writer, function: str) -> None:
    sign = -1.0 if writer.flip() else 1.0
    slope = sqrt(2 / pi)
    if function == "Erf":
        argument = writer.scaled("x", sign * sqrt(0.5))
    elif writer.flip():
        cube = writer.scaled(writer.power(3), 0.044715)
        argument = writer.scaled(writer.commuted("Add", "x", cube), sign * slope)
    else:
        square = writer.scaled(writer.power(2), 0.044715)
        argument = writer.product("x", sign * slope, writer.plus(square, 1.0))
    t = writer.op(function, argument)
    match int(writer.rng.integers(3)):
        case 0:
            gate = writer.plus(writer.op("Neg", t), 1.0) if sign < 0 else writer.plus(t, 1.0)
            writer.product("x", 0.5, gate)
        case 1:
            writer.product("x", writer.plus(writer.scaled(t, sign * 0.5), 0.5))
        case _:
            half = writer.scaled("x", 0.5)
            last = writer.product(half, t)
            _ = writer.commuted("Add", half, last) if sign > 0 else writer.op("Sub", half, last)


@pytest.mark.parametrize("function", ["Erf", "Tanh"])
@pytest.mark.parametrize("seed", range(40))
def test_gelu_is_found_however_it_is_written(agrees, function, seed):
    writer = _Writer(seed)
    _gelu(writer, function)
    model = writer.model(20)
    done = agrees(FuseGelu(), model, seed)
    assert len(done.changed) == 1, (writer.nodes, done.kept)


@pytest.mark.parametrize("seed", range(20))
def test_swish_is_found_however_it_is_written(agrees, seed):
    writer = _Writer(seed)
    factor = float(writer.rng.choice([1.0, 1.702, -0.5, 3.0]))
    t = writer.op("Sigmoid", "x" if factor == 1 and writer.flip() else writer.scaled("x", factor))
    writer.product("x", t)
    done = agrees(FuseSwish(), writer.model(24), seed)
    assert len(done.changed) == 1, (writer.nodes, done.kept)


@pytest.mark.parametrize("seed", range(10))
def test_mish_is_found_however_it_is_written(agrees, seed):
    writer = _Writer(seed)
    softplus = (
        writer.op("Log", writer.plus(writer.op("Exp", "x"), 1.0)) if writer.flip() else writer.op("Softplus", "x")
    )
    t = writer.op("Tanh", softplus)
    writer.product("x", t)
    done = agrees(FuseMish(), writer.model(18), seed)
    assert len(done.changed) == 1, (writer.nodes, done.kept)


@pytest.mark.parametrize("seed", range(40))
def test_other_polynomials_are_left_alone(agrees, seed):
    """One number is another one."""
    writer = _Writer(seed)
    wrong = seed % 3
    t = writer.op("Erf", writer.scaled("x", 0.8 if wrong == 0 else sqrt(0.5)))
    gate = writer.plus(t, 2.0 if wrong == 1 else 1.0)
    writer.product("x" if wrong != 2 else writer.op("Abs", "x"), 0.5, gate)
    assert not agrees(FuseGelu(), writer.model(20), seed).changed
