"""Ramps: ``min(max(slope * x + offset, low), high)``, the function that HardSigmoid and its dialects compute.

Exporters write it with Clip, Relu, Min, Max, Add, Sub, Mul, Div and Neg in every order. Each of them turns a
ramp into a ramp, so a chain is recognised by calculating with the four numbers, not by listing its forms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isfinite

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._affine import Refusal, number

LONGEST = 8  # nodes of a chain; no dialect has more, and a bound keeps the search linear
RUNNABLE = frozenset((ir.DataType.FLOAT, ir.DataType.FLOAT16))  # what ONNX Runtime's CPU kernels take
_EPSILON = {ir.DataType.FLOAT16: 2.0**-10, ir.DataType.BFLOAT16: 2.0**-7, ir.DataType.DOUBLE: 2.0**-52}


@dataclass(frozen=True)
class Ramp:
    """``min(max(slope * x + offset, low), high)``."""

    slope: float = 1.0
    offset: float = 0.0
    low: float = -inf
    high: float = inf

    def times(self, factor: float) -> Ramp:
        """The ramp multiplied by a number."""
        if factor == 0:
            return Ramp(0.0, 0.0, 0.0, 0.0)
        ends = sorted((self.low * factor, self.high * factor))
        return Ramp(self.slope * factor, self.offset * factor, *ends)

    def plus(self, term: float) -> Ramp:
        """The ramp with a number added."""
        return Ramp(self.slope, self.offset + term, self.low + term, self.high + term)

    def clipped(self, low: float, high: float) -> Ramp:
        """The ramp kept within bounds, ``low <= high``."""
        bound = [min(max(end, low), high) for end in (self.low, self.high)]
        return replace(self, low=bound[0], high=bound[1])

    def after(self, inner: Ramp) -> Ramp:
        """This ramp of another ramp."""
        return inner.times(self.slope).plus(self.offset).clipped(self.low, self.high)

    def rises_from_zero_to(self, high: float, tolerance: float) -> bool:
        """True when the values are 0 to ``high``, and the slope is a usable number."""
        return (
            abs(self.low) <= tolerance * high
            and abs(self.high - high) <= tolerance * high
            and self.slope != 0
            and isfinite(self.slope)
            and isfinite(self.offset)
        )


@dataclass(frozen=True, eq=False)
class Step:
    """One node of a chain.

    Attributes:
        node: the node.
        place: which of its inputs is the variable operand.
        ramp: what it computes from that.
        dtype: the element type, where a constant of the node tells it.
    """

    node: ir.Node
    place: int
    ramp: Ramp
    dtype: ir.DataType | None = None

    @property
    def source(self) -> ir.Value:
        """The variable operand."""
        value = self.node.inputs[self.place]
        assert value is not None
        return value


def _read(node: ir.Node, version: int) -> Step | None:
    if version < 7 or gir.has_reference(node):
        return None
    if gir.is_op(node, "Mul", "Div", "Add", "Sub", "Min", "Max"):
        return _with_number(node)
    if not gir.is_op(node, "Neg", "Relu", "Clip", "HardSigmoid") or node.inputs[0] is None:
        return None
    match node.op_type:
        case "Neg":
            return Step(node, 0, Ramp(slope=-1.0))
        case "Relu":
            return Step(node, 0, Ramp(low=0.0))
        case "HardSigmoid":
            return Step(node, 0, Ramp(number(node, "alpha", 0.2), number(node, "beta", 0.5), 0.0, 1.0))
        case _:
            return _clip(node, version)


def _clip(node: ir.Node, version: int) -> Step | None:
    dtype = None
    bounds = [-inf, inf]
    for place, name in enumerate(("min", "max")):
        if version < 11:
            bounds[place] = float(gir.attribute(node, name, bounds[place]))
            continue
        value = node.inputs[place + 1] if len(node.inputs) > place + 1 else None
        if value is None:
            continue
        bound = gir.scalar(value)
        if not isinstance(bound, float):
            return None
        bounds[place], dtype = bound, _dtype(value)
    low, high = bounds
    return Step(node, 0, Ramp(low=low, high=high), dtype) if low <= high else None


def _with_number(node: ir.Node) -> Step | None:
    """A node with two operands, one of which is one number that does not raise the other's rank."""
    if len(node.inputs) != 2:
        return None
    for place in (0, 1):
        source, operand = node.inputs[place], node.inputs[1 - place]
        factor = gir.scalar(operand)
        if source is None or not isinstance(factor, float) or not isfinite(factor):
            continue
        rank, added = gir.rank(source), gir.rank(operand)
        if added and (rank is None or rank < added):
            continue
        ramp = _ramp(node.op_type, factor, swapped=place == 1)
        if ramp is not None:
            return Step(node, place, ramp, _dtype(operand))
    return None


def _ramp(operator: str, factor: float, *, swapped: bool) -> Ramp | None:
    match operator:
        case "Mul":
            return Ramp(slope=factor) if factor else None
        case "Div":
            return None if swapped or factor == 0 else Ramp(slope=1.0 / factor)
        case "Add":
            return Ramp(offset=factor)
        case "Sub":
            return Ramp(-1.0, factor) if swapped else Ramp(offset=-factor)
        case "Min":
            return Ramp(high=factor)
        case _:
            return Ramp(low=factor)


def _dtype(value: ir.Value | None) -> ir.DataType | None:
    tensor = gir.constant(value)
    return None if tensor is None else tensor.dtype


class Steps:
    """The steps of one body, each node read once."""

    def __init__(self, version: int) -> None:
        self._version = version
        self._known: dict[ir.Node, Step | None] = {}
        self._limits: dict[ir.Node | None, tuple[float, float]] = {}

    def at(self, node: ir.Node | None) -> Step | None:
        """A node as a step of a ramp; None when it is something else, or its numbers are not known."""
        if node is None:
            return None
        if node not in self._known:
            self._known[node] = _read(node, self._version)
        return self._known[node]

    def limits(self, found: Step) -> tuple[float, float]:
        """Between what the values of a step lie, as far as the steps before it tell that were asked for before."""
        low, high = self._limits.get(found.source.producer(), (-inf, inf))
        ramp = found.ramp.after(Ramp(low=low, high=high))
        self._limits[found.node] = ramp.low, ramp.high
        return ramp.low, ramp.high

    def chain(self, value: ir.Value) -> Chain:
        """The steps that lead to a value."""
        steps: list[Step] = []
        ramps = [Ramp()]
        found = self.at(value.producer())
        while found is not None and len(steps) < LONGEST and found.node.graph is (steps or [found])[0].node.graph:
            ramps.append(ramps[-1].after(found.ramp))
            steps.append(found)
            found = self.at(found.source.producer())
        return Chain(value, tuple(steps), tuple(ramps))


@dataclass(frozen=True, eq=False)
class Chain:
    """The steps that lead to a value, the last first, in the same graph.

    Attributes:
        value: what the last step computes.
        steps: at most ``LONGEST``.
        ramps: ``ramps[k]`` is the value as a function of ``steps[k - 1].source``.
    """

    value: ir.Value
    steps: tuple[Step, ...]
    ramps: tuple[Ramp, ...]

    def private(self) -> int:
        """How many of the last steps pass their result on to nothing but the next."""
        for count in range(1, len(self.steps)):
            value = self.steps[count].node.outputs[0]
            if value.is_graph_output() or len(value.uses()) != 1:
                return count
        return len(self.steps)

    def dtype(self) -> ir.DataType | None:
        """The element type: the operands of a step share it."""
        found = next((item.dtype for item in self.steps if item.dtype is not None), None)
        return found or self.value.dtype or next((item.source.dtype for item in self.steps if item.source.dtype), None)


def tolerance(dtype: ir.DataType | None) -> float:
    """How far numbers of that type may be from those they stand for, relative."""
    return 4 * _EPSILON.get(dtype or ir.DataType.FLOAT, 2.0**-23)


def hard_sigmoid(x: ir.Value, slope: float, offset: float) -> ir.Node:
    """``HardSigmoid(x)`` with the numbers as ONNX stores them."""
    node = ir.node("HardSigmoid", [x], {"alpha": float(np.float32(slope)), "beta": float(np.float32(offset))})
    node.outputs[0].shape, node.outputs[0].type = x.shape, x.type
    return node


def runnable(dtype: ir.DataType | None, operator: str) -> None:
    """Check that the operator has a kernel for the type, lest a model stops loading.

    Raises:
        Refusal: it has none in ONNX Runtime, or the type is not known.
    """
    if dtype is None:
        raise Refusal("its element type is not known")
    if dtype not in RUNNABLE:
        raise Refusal(f"onnx runtime has no {operator} for {dtype.name}")
