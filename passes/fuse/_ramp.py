"""Ramps: ``min(max(slope * x + offset, low), high)``, the function that HardSigmoid and its dialects compute.

Exporters write it with Clip, Relu, Min, Max, Add, Sub, Mul, Div and Neg in every order. Each of them turns a
ramp into a ramp, so a chain is recognised by calculating with the four numbers, not by listing its forms.
"""

from __future__ import annotations

from collections.abc import Callable
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
        source: its variable operand.
        on: what it makes of a ramp.
        dtype: the element type, where a constant of the node tells it.
    """

    node: ir.Node
    source: ir.Value
    on: Callable[[Ramp], Ramp]
    dtype: ir.DataType | None


def step(node: ir.Node | None, version: int) -> Step | None:
    """A node as a step of a ramp; None when it is something else, or its numbers are not known."""
    if node is None or version < 7 or gir.has_reference(node):
        return None
    if gir.is_op(node, "Mul", "Div", "Add", "Sub", "Min", "Max"):
        return _with_number(node)
    if not gir.is_op(node, "Neg", "Relu", "Clip", "HardSigmoid"):
        return None
    source = node.inputs[0]
    if source is None:
        return None
    match node.op_type:
        case "Neg":
            return Step(node, source, lambda ramp: ramp.times(-1.0), None)
        case "Relu":
            return Step(node, source, lambda ramp: ramp.clipped(0.0, inf), None)
        case "HardSigmoid":
            slope, offset = number(node, "alpha", 0.2), number(node, "beta", 0.5)
            return Step(node, source, lambda ramp: ramp.times(slope).plus(offset).clipped(0.0, 1.0), None)
        case _:
            return _clip(node, source, version)


def _clip(node: ir.Node, source: ir.Value, version: int) -> Step | None:
    dtype = None
    bounds = [-inf, inf]
    for place, name in enumerate(("min", "max")):
        if version < 11:
            bounds[place] = float(gir.attribute(node, name, bounds[place]))
            continue
        value = node.inputs[place + 1] if len(node.inputs) > place + 1 else None
        if value is None:
            continue
        number = gir.scalar(value)
        if not isinstance(number, float):
            return None
        bounds[place], dtype = number, _dtype(value)
    low, high = bounds
    return Step(node, source, lambda ramp: ramp.clipped(low, high), dtype) if low <= high else None


def _with_number(node: ir.Node) -> Step | None:
    """A node with two operands, one of which is one number that does not raise the other's rank."""
    if len(node.inputs) != 2:
        return None
    for source, operand in (node.inputs, reversed(tuple(node.inputs))):
        number = gir.scalar(operand)
        if source is None or operand is None or not isinstance(number, float) or not isfinite(number):
            continue
        rank, added = gir.rank(source), gir.rank(operand)
        if added and (rank is None or rank < added):
            continue
        change = _change(node, number, swapped=operand is node.inputs[0])
        if change is not None:
            return Step(node, source, change, _dtype(operand))
    return None


def _change(node: ir.Node, number: float, *, swapped: bool) -> Callable[[Ramp], Ramp] | None:
    match node.op_type:
        case "Mul":
            return lambda ramp: ramp.times(number)
        case "Div":
            return None if swapped or number == 0 else lambda ramp: ramp.times(1.0 / number)
        case "Add":
            return lambda ramp: ramp.plus(number)
        case "Sub" if swapped:
            return lambda ramp: ramp.times(-1.0).plus(number)
        case "Sub":
            return lambda ramp: ramp.plus(-number)
        case "Min":
            return lambda ramp: ramp.clipped(-inf, number)
        case _:
            return lambda ramp: ramp.clipped(number, inf)


def _dtype(value: ir.Value) -> ir.DataType | None:
    tensor = gir.constant(value)
    return None if tensor is None else tensor.dtype


@dataclass(frozen=True, eq=False)
class Chain:
    """The steps that lead to a value, the last first, in the same graph.

    ``ramp(k)`` is the value as a function of ``steps[k - 1].source``.
    """

    value: ir.Value
    steps: tuple[Step, ...]

    @classmethod
    def of(cls, value: ir.Value, version: int) -> Chain:
        """Walk back from a value."""
        steps: list[Step] = []
        current, producer = value, value.producer()
        while producer is not None and len(steps) < LONGEST:
            found = step(producer, version)
            if found is None or producer.graph is not (steps[0].node if steps else producer).graph:
                break
            steps.append(found)
            current = found.source
            producer = current.producer()
        return cls(value, tuple(steps))

    def ramp(self, length: int) -> Ramp:
        """The value as a function of what enters the chain's last ``length`` steps."""
        ramp = Ramp()
        for item in reversed(self.steps[:length]):
            ramp = item.on(ramp)
        return ramp

    def private(self, length: int) -> int:
        """How many of the last steps pass their result on to nothing but the next, at most ``length``."""
        for count in range(1, min(length, len(self.steps))):
            if not _passed_on(self.steps[count].node.outputs[0]):
                return count
        return min(length, len(self.steps))

    def dtype(self) -> ir.DataType | None:
        """The element type: the operands of a step share it."""
        found = next((item.dtype for item in self.steps if item.dtype is not None), None)
        return found or self.value.dtype or next((s.source.dtype for s in self.steps if s.source.dtype), None)


def _passed_on(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


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
