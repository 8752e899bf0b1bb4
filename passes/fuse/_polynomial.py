"""Expressions ``P(x, t)`` where t is a function of x: what GELU, Swish and Mish are, in every dialect.

::

    GELU  = (x + x t) / 2    t = Erf(x / sqrt(2))
          = (x + x t) / 2    t = Tanh(sqrt(2 / pi) (x + 0.044715 x^3))
    Swish = x t              t = Sigmoid(a x)
    Mish  = x t              t = Tanh(Softplus(x))

Exporters write the polynomials with Add, Sub, Mul, Div, Neg and Pow in every order, so they are recognised by
calculating with coefficients, not by listing their forms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import TypeAlias

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.rewrite.constants import shape_objection
from graphopt.rewrite.uses import first_uses

Polynomial: TypeAlias = Mapping[tuple[int, int], float]
"""Coefficients of ``x^i t^j`` by (i, j), none of them 0."""

X: Polynomial = {(1, 0): 1.0}
T: Polynomial = {(0, 1): 1.0}

_OPERATORS = ("Add", "Sum", "Sub", "Mul", "Div", "Neg", "Pow")
_MOST_NODES = 24  # no dialect has more; a bound keeps the search linear
_DEEPEST = 8
_DEGREES = (3, 1)
_EPSILON = {ir.DataType.FLOAT16: 2.0**-10, ir.DataType.BFLOAT16: 2.0**-7}
_NEAR = 2e-5  # exporters write sqrt(2) as 1.4142 and sqrt(2 / pi) as 0.79788, and multiply them


def is_near(found: Polynomial | None, wanted: Polynomial, dtype: ir.DataType | None, slack: float = 1.0) -> bool:
    """True for the same polynomial up to the rounding of its constants; ``slack`` widens that."""
    if found is None or found.keys() != wanted.keys():
        return False
    near = slack * max(_NEAR, 4 * _EPSILON.get(dtype or ir.DataType.FLOAT, 0.0))
    return all(abs(found[key] - number) <= near * abs(number) for key, number in wanted.items())


def _sum(left: Polynomial, right: Polynomial, sign: float = 1.0) -> Polynomial:
    total = dict(left)
    for key, number in right.items():
        total[key] = total.get(key, 0.0) + sign * number
    return {key: number for key, number in total.items() if number}


def _product(left: Polynomial, right: Polynomial) -> Polynomial | None:
    total: dict[tuple[int, int], float] = {}
    for (i, j), number in left.items():
        for (k, m), factor in right.items():
            key = (i + k, j + m)
            if key[0] > _DEGREES[0] or key[1] > _DEGREES[1]:
                return None
            total[key] = total.get(key, 0.0) + number * factor
    return {key: number for key, number in total.items() if number}


@dataclass(eq=False)
class Reading:
    """Values of one graph as polynomials in x and, where given, t.

    Attributes:
        graph: the graph whose nodes are read; values from outside are not looked into.
        x: the variable.
        t: the function of x, None when there is none yet.
        inner: the nodes whose results have been read so far.
        objection: why a constant met so far may not stand for a number, None when each may.
    """

    graph: ir.Graph | ir.Function | None
    x: ir.Value
    t: ir.Value | None = None
    inner: dict[ir.Node, None] = field(default_factory=dict)
    objection: str | None = None
    _known: dict[ir.Value, Polynomial | None] = field(default_factory=dict)

    def of(self, value: ir.Value | None, depth: int = 0) -> Polynomial | None:
        """A value as a polynomial; None when it is none."""
        if value is None:
            return None
        if value is self.x:
            return X
        if value is self.t:
            return T
        if value not in self._known:
            self._known[value] = None
            self._known[value] = self._read(value.producer(), depth)
        return self._known[value]

    def _read(self, node: ir.Node | None, depth: int) -> Polynomial | None:
        if not _is_read(node, self.graph) or depth >= _DEEPEST or len(self.inner) >= _MOST_NODES:
            return None
        assert node is not None
        self.inner[node] = None
        if node.op_type == "Neg":
            operand = self.of(node.inputs[0], depth + 1)
            return None if operand is None else {key: -number for key, number in operand.items()}
        numbers = [self._number(node, place) for place in (0, 1)]
        if numbers[0] is not None and numbers[1] is not None:
            return None
        if node.op_type == "Pow":
            return self._power(node, numbers[1], depth)
        operands = [
            self.of(node.inputs[place], depth + 1) if number is None else {(0, 0): number} if number else {}
            for place, number in enumerate(numbers)
        ]
        left, right = operands
        if left is None or right is None:
            return None
        match node.op_type:
            case "Add" | "Sum":
                return _sum(left, right)
            case "Sub":
                return _sum(left, right, -1.0)
            case "Mul":
                return _product(left, right)
            case _:
                return None if not numbers[1] else _product(left, {(0, 0): 1.0 / numbers[1]})

    def _power(self, node: ir.Node, exponent: float | None, depth: int) -> Polynomial | None:
        base = self.of(node.inputs[0], depth + 1)
        if base is None or exponent not in (2, 3):
            return None
        square = _product(base, base)
        return square if exponent == 2 or square is None else _product(square, base)

    def _number(self, node: ir.Node, place: int) -> float | None:
        found = gir.scalar(node.inputs[place])
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not isfinite(found):
            return None
        value = node.inputs[place]
        assert value is not None
        self.objection = self.objection or shape_objection(value, node, place)
        return float(found)


def _is_read(node: ir.Node | None, graph: ir.Graph | ir.Function | None) -> bool:
    if node is None or node.graph is not graph or not gir.is_op(node, *_OPERATORS) or len(node.attributes):
        return False
    return len(node.inputs) == (1 if node.op_type == "Neg" else 2)


def variables(value: ir.Value, graph: ir.Graph | ir.Function | None) -> Iterator[ir.Value]:
    """What a value may be a polynomial in, the nearest first: itself, its operands, theirs, ..."""
    pending, seen = [value], {value}
    for value in pending:
        yield value
        node = value.producer()
        if len(pending) >= _MOST_NODES or not _is_read(node, graph):
            continue
        assert node is not None
        for operand in node.inputs:
            if operand is not None and operand not in seen and gir.constant(operand) is None:
                seen.add(operand)
                pending.append(operand)


@dataclass(frozen=True, eq=False)
class Product:
    """Where ``P(x, t)`` is computed.

    Attributes:
        last: the node that computes it.
        between: the values on the way from t, which goes.
        reading: in terms of x and t.
        factor: how many times the wanted polynomial it is.
    """

    last: ir.Node
    between: tuple[ir.Value, ...]
    reading: Reading
    factor: float = 1.0

    def objection(self) -> str | None:
        """Why it cannot be replaced, or None."""
        for value in self.between:
            producer = value.producer()
            if producer is not None and (value.is_graph_output() or len({user for user, _ in first_uses(value)}) != 1):
                return f"the result of {gir.where(producer)} is also used elsewhere"
        return self.reading.objection


def product(
    x: ir.Value, t: ir.Value, wanted: Polynomial, dtype: ir.DataType | None, *, multiples: bool = False
) -> Product | None:
    """The node after t that computes the wanted polynomial.

    Args:
        x: the variable.
        t: the function of it.
        wanted: the polynomial.
        dtype: their element type.
        multiples: if there is no such node, take the last that computes a multiple of it; one is left over where a
            factor has been merged with the weights of what comes next.
    """
    producer = t.producer()
    assert producer is not None
    reading = Reading(producer.graph, x, t)
    between: list[ir.Value] = []
    value, multiple = t, None
    for _ in range(_DEEPEST):
        between.append(value)
        following = None
        for user, _ in first_uses(value, 4):
            found = reading.of(user.outputs[0]) if _is_read(user, producer.graph) else None
            if is_near(found, wanted, dtype):
                return Product(user, tuple(between), reading)
            if found is not None and following is None:
                following = user
                factor = _multiple(found, wanted, dtype) if multiples else None
                multiple = multiple if factor is None else Product(user, tuple(between), reading, factor)
        if following is None:
            break
        value = following.outputs[0]
    return multiple


def _multiple(found: Polynomial, wanted: Polynomial, dtype: ir.DataType | None) -> float | None:
    key, number = next(iter(wanted.items()))
    factor = found.get(key, 0.0) / number
    scaled = {key: factor * number for key, number in wanted.items()}
    return factor if factor and is_near(found, scaled, dtype) else None
