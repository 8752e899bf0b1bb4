"""Gates of recurrent cells as sums of products with constant matrices, read off the ways they are written.

    gate = x W + h R + b      W, R: columns of constant matrices;  x, h: values, or one step of a sequence

The sum may be split into the columns of several gates before or behind the activation, x and h may be joined first
(a product with [W; R]), and the product of x may be one of a whole sequence, from which a step is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._affine import Refusal
from ._steps import Source, before, columns, origin, source_of, step_of


@dataclass(frozen=True)
class Weights:
    """A block of a constant matrix [in, out].

    Attributes:
        owner: the constant.
        turned: it is stored as [out, in].
        row, rows: where the block begins, and how many inputs it has.
        column, columns: likewise for outputs.
        scale: what it is multiplied by.
    """

    owner: ir.Value
    turned: bool
    row: int
    rows: int
    column: int
    columns: int
    scale: float

    def array(self) -> np.ndarray:
        """The block as [out, in]."""
        elements = gir.array(self.owner)
        assert elements is not None, "it was a constant"
        elements = elements.reshape(elements.shape[-2:])  # those of an operator have an axis of directions in front
        matrix = elements if self.turned else elements.T
        block = matrix[self.column : self.column + self.columns, self.row : self.row + self.rows]
        return block if self.scale == 1 else block * block.dtype.type(self.scale)


@dataclass(eq=False)
class Gate:
    """The sum in front of an activation.

    Attributes:
        terms: the products.
        bias: the constants, one number for each unit.
        others: summands that are no products, as value and first column.
        nodes: what computes the sum from the sources.
    """

    terms: dict[Source, Weights]
    bias: np.ndarray
    others: list[tuple[ir.Value, int]]
    nodes: set[ir.Node]

    def negated(self) -> Gate:
        """The sum with the other sign."""
        terms = {source: replace(item, scale=-item.scale) for source, item in self.terms.items()}
        return Gate(terms, -self.bias, self.others, self.nodes)


def activation(value: ir.Value | None, op_type: str, nodes: set[ir.Node]) -> tuple[ir.Value, int] | None:
    """What an activation is applied to, and from which column on, where a value is its result or some columns of it."""
    start, seen = 0, list[ir.Node]()
    while value is not None and (node := value.producer()) is not None:
        seen.append(node)
        if gir.is_op(node, op_type):
            nodes.update(seen)
            return None if node.inputs[0] is None else (node.inputs[0], start)
        part = columns(value)
        if part is None:
            return None
        value, offset = part
        start += offset
    return None


def read(value: ir.Value, start: int, width: int) -> Gate:
    """The sum that some columns of a value are.

    Raises:
        Refusal: it is not as described above.
    """
    gate = Gate({}, np.zeros(width), [], set())
    pending: list[tuple[ir.Value | None, int, tuple[int, int | ir.Value] | None]] = [(value, start, None)]
    while pending:
        item, start, step = pending.pop()
        if item is not None and gir.constant(item) is not None:
            gate.bias += _row(item, start, width)
            continue
        node = None if item is None else item.producer()
        if item is None or node is None or gir.has_reference(node):
            raise Refusal("a gate is no sum of products with constant matrices")
        part = columns(item)
        whole = None if step is not None or part is not None else step_of(item)
        if part is not None:
            gate.nodes.add(node)
            pending.append((part[0], start + part[1], step))
        elif whole is not None:
            source, between = whole
            gate.nodes.update(between)
            pending.append((source.value, start, (source.axis, source.index)))
        elif gir.is_op(node, "Add"):
            gate.nodes.add(node)
            pending += [(operand, start, step) for operand in reversed(node.inputs)]
        elif gir.is_op(node, "Transpose") and step is not None and (axis := before(node, step[0])) is not None:
            gate.nodes.add(node)
            pending.append((node.inputs[0], start, (axis, step[1])))
        elif gir.is_op(node, "MatMul", "Gemm") and gir.constant(node.inputs[1]) is not None:
            added = _multiply(node, start, step, gate)
            if added is not None:
                pending.append((added, start, step))
        elif step is None:
            gate.others.append((item, start))
        else:
            raise Refusal("a gate is no sum of products with constant matrices")
    return gate


def _multiply(node: ir.Node, start: int, step: tuple[int, int | ir.Value] | None, gate: Gate) -> ir.Value | None:
    """Note the product; what is left to be added is returned."""
    gemm = node.op_type == "Gemm"
    width = len(gate.bias)
    source, owner = node.inputs[0], node.inputs[1]
    added = node.inputs[2] if gemm and len(node.inputs) > 2 else None
    turned = gemm and bool(gir.attribute(node, "transB", 0))
    shape = gir.static_dims(owner)
    if source is None or owner is None or shape is None or len(shape) != 2 or gir.attribute(node, "transA", 0):
        raise Refusal(f"{gir.where(node)} is no product with a constant matrix")
    beta = float(gir.attribute(node, "beta", 1.0)) if gemm else 1.0
    inputs, outputs = reversed(shape) if turned else shape
    if start + len(gate.bias) > outputs:
        raise Refusal(f"the result of {gir.where(node)} is repeated")
    gate.nodes.add(node)
    scale = float(gir.attribute(node, "alpha", 1.0)) if gemm else 1.0
    row = 0
    for item, rows in list(_sources(source, step, inputs, gate)):
        if item in gate.terms:
            raise Refusal("a gate reads the same input twice")
        gate.terms[item] = Weights(owner, turned, row, rows, start, width, scale)
        row += rows
    if added is not None and beta != 1:
        if gir.constant(added) is None:
            raise Refusal(f"what {gir.where(node)} adds is no constant")
        gate.bias += beta * _row(added, start, width)
        return None
    return added


def _sources(
    value: ir.Value, step: tuple[int, int | ir.Value] | None, features: int, gate: Gate
) -> Iterator[tuple[Source, int]]:
    if step is not None:
        if gir.rank(value) != 3:
            raise Refusal(f"{gir.where(value)} is no sequence")
        yield origin(Source(value, *step)), features
        return
    node = value.producer()
    if node is not None and gir.is_op(node, "Concat") and gir.attribute(node, "axis", 0) in (1, -1):
        gate.nodes.add(node)
        for part in node.inputs:
            shape = gir.dims(part)
            if part is None or shape is None or len(shape) != 2 or not isinstance(shape[1], int):
                raise Refusal(f"the sizes of what {gir.where(node)} joins are not known")
            yield source_of(part), shape[1]
        return
    if gir.rank(value) != 2:
        raise Refusal(f"{gir.where(value)} is not known to have two dimensions")
    yield source_of(value), features


def _row(value: ir.Value, start: int, width: int) -> np.ndarray:
    """Some columns of a constant that is the same in every row.

    Raises:
        Refusal: it is not.
    """
    elements = gir.array(value)
    assert elements is not None, "it is constant"
    if elements.size == 1:
        return np.full(width, elements.reshape(()), dtype=np.float64)
    rows = elements.reshape(-1, elements.shape[-1]) if elements.ndim and elements.size else elements.reshape(0, 0)
    if rows.shape[1] < start + width or not len(rows) or not (rows == rows[0]).all():
        raise Refusal(f"{gir.where(value)} has not one number for each unit")
    return rows[0, start : start + width].astype(np.float64)
