"""Einsum as the operators it stands for, with as few transpositions as there can be:

    Einsum{"ij->j"}(x)              =  ReduceSum(x)                    sums and transpositions of one operand
    Einsum{"bi,bj->bij"}(x, y)      =  Unsqueeze(x) * Unsqueeze(y)     nothing in common is summed
    Einsum{"bi,bi->b"}(x, y)        =  ReduceSum(x * y)                nothing is in one operand only
    Einsum{"bsd,dn->bsn"}(x, y)     =  MatMul(x, y)                    else: a product of matrices, the letters sorted
    Einsum{"bqhd,bkhd->bhqk"}(q, k) =  MatMul(Transpose(q), Transpose(k))                     into batch, left, summed
                                                                                              and right ones
Source: the definition of Einsum (version 12); the sorting is that of Vasilache et al., Tensor Comprehensions, 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline import Context, Fidelity, Pass

from ._affine import FLOATS, Refusal
from ._einsum import Letters, Product, best_product, parse

Dim = int | str | None
_TYPES = (*sorted(FLOATS), ir.DataType.INT32, ir.DataType.INT64)
_AXES_ARE_INPUT = 13


@dataclass(frozen=True)
class FuseEinsum(Pass):
    """Writes Einsums of one or two operands as MatMul, Mul, ReduceSum, Transpose and Reshape.

    These are what other passes know: transpositions cancel, biases fold, attention is found. There may be more nodes
    than before, doing what the runtime's Einsum does inside. Only the order of the summation may change.

    Kept: diagonals (a letter twice in one operand), three or more operands, unknown ranks, a summed letter whose two
    sizes are not known to be equal (1 would be repeated), and letters to be joined of which two sizes are not known.
    """

    name: ClassVar[str] = "fuse-einsum"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each Einsum."""
        for body in gir.bodies(model):
            for node in body.nodes():
                if not gir.is_op(node, "Einsum"):
                    continue
                try:
                    kinds = _trial(node, body.version())
                except Refusal as refusal:
                    yield Site(gir.where(node), str(refusal))
                    continue
                yield Site(
                    gir.where(node),
                    f"becomes {', '.join(kinds) or 'nothing'}",
                    partial(_apply, node, body.version()),
                )


def _trial(node: ir.Node, version: int) -> list[str]:
    """Write everything, take it back, and tell which operators it were."""
    writer = _Writer(node, version)
    try:
        _write(node, writer)
    finally:
        for new in writer.nodes:
            gir.release(new)
    return [new.op_type for new in writer.nodes]


def _apply(node: ir.Node, version: int) -> None:
    writer = _Writer(node, version)
    writer.put(_write(node, writer))


@dataclass(eq=False)
class _Writer:
    """New nodes, and the constants they read, which become part of the graph with them."""

    node: ir.Node
    version: int
    nodes: list[ir.Node] = field(default_factory=list[ir.Node])
    constants: list[tuple[ir.Node, list[int], str]] = field(default_factory=list[tuple[ir.Node, list[int], str]])

    def op(self, op_type: str, *operands: ir.Value, **attributes: Any) -> ir.Value:
        """A node with one result of the same element type."""
        new = ir.node(op_type, list(operands), attributes)
        new.outputs[0].type = self.node.inputs[0].type if self.node.inputs[0] is not None else None
        self.nodes.append(new)
        return new.outputs[0]

    def axes(self, op_type: str, value: ir.Value, axes: Sequence[int], **attributes: Any) -> ir.Value:
        """A node with axes, an attribute or an input."""
        if self.version < _AXES_ARE_INPUT:
            return self.op(op_type, value, axes=list(axes), **attributes)
        return self._with_list(op_type, value, list(axes), "axes", **attributes)

    def reshape(self, value: ir.Value, shape: list[int]) -> ir.Value:
        """A Reshape."""
        return self._with_list("Reshape", value, shape, "shape")

    def order(self, value: ir.Value, have: Letters, want: Letters) -> ir.Value:
        """A Transpose, where one is needed."""
        return value if have == want else self.op("Transpose", value, perm=[have.index(letter) for letter in want])

    def _with_list(self, op_type: str, value: ir.Value, numbers: list[int], hint: str, **attributes: Any) -> ir.Value:
        result = self.op(op_type, value, **attributes)
        self.constants.append((self.nodes[-1], numbers, hint))
        return result

    def put(self, result: ir.Value) -> None:
        """Put everything in the place of the Einsum."""
        graph = self.node.graph
        assert graph is not None
        for user, numbers, hint in self.constants:
            user.resize_inputs(2)
            user.replace_input_with(1, gir.new_initializer(graph, np.array(numbers, dtype=np.int64), hint))
        gir.replace_node(self.node, self.nodes, [result])


def _write(node: ir.Node, writer: _Writer) -> ir.Value:
    values = [value for value in node.inputs if value is not None]
    shapes = [gir.dims(value) for value in values]
    known = [shape for shape in shapes if shape is not None]
    if gir.has_reference(node):
        raise Refusal("its equation is a parameter of the function")
    if len(known) != len(shapes):
        raise Refusal("the rank of an operand is not known")
    if values[0].dtype not in _TYPES:
        kind = values[0].dtype
        raise Refusal("its element type is not known" if kind is None else f"its element type is {kind.name.lower()}")
    if len(values) > 2:
        raise Refusal(f"it has {len(values)} operands")
    equation = parse(gir.attribute(node, "equation", ""), [len(shape) for shape in known])
    if len(values) == 1:
        return _sum(writer, values[0], equation.operands[0], equation.result, equation.result)[0]
    (a, first), (b, second) = (
        _sum(writer, value, letters, (*equation.result, *other), None)
        for value, letters, other in zip(values, equation.operands, reversed(equation.operands), strict=True)
    )
    sizes = _sizes(equation.operands, known, equation.result)
    if not [letter for letter in first if letter in second and letter not in equation.result]:
        parts = [_aligned(writer, value, letters, equation.result) for value, letters in ((a, first), (b, second))]
        return writer.op("Mul", *parts)
    if set(first) == set(second) and len(first) > 1:
        return _dot(writer, a, writer.order(b, second, first), first, equation.result)
    way = best_product(first, second, equation.result)
    if way.swapped:
        a, first, b, second = b, second, a, first
    return _multiply(
        writer, way, writer.order(a, first, way.first), writer.order(b, second, way.second), sizes, equation.result
    )


def _sum(
    writer: _Writer, value: ir.Value, letters: Letters, kept: Letters, order: Letters | None
) -> tuple[ir.Value, Letters]:
    """Sum over the letters that nothing else has, and sort what is left."""
    gone = [axis for axis, letter in enumerate(letters) if letter not in kept]
    rest = tuple(letter for letter in letters if letter in kept)
    if gone:
        value = writer.axes("ReduceSum", value, gone, keepdims=0)
    return (value, rest) if order is None else (writer.order(value, rest, order), order)


def _aligned(writer: _Writer, value: ir.Value, letters: Letters, result: Letters) -> ir.Value:
    """An operand in the order of the result, with axes of size 1 where it has none; those in front broadcast."""
    want = tuple(letter for letter in result if letter in letters)
    value = writer.order(value, letters, want)
    start = result.index(want[0]) if want else len(result)
    missing = [axis - start for axis, letter in enumerate(result) if axis > start and letter not in letters]
    return writer.axes("Unsqueeze", value, missing) if missing else value


def _sizes(operands: tuple[Letters, ...], shapes: list[tuple[Dim, ...]], result: Letters) -> dict[str, Dim]:
    """The size of each letter.

    Raises:
        Refusal: a summed letter may have two sizes.
    """
    sizes: dict[str, Dim] = {}
    for letters, shape in zip(operands, shapes, strict=True):
        for letter, size in zip(letters, shape, strict=True):
            if letter not in sizes:
                sizes[letter] = size
            elif sizes[letter] is None or sizes[letter] != size:
                if letter not in result:
                    raise Refusal(f"the sizes of {letter} are not known to be equal")
                sizes[letter] = None  # one may be 1, and is repeated
    return sizes


def _dot(writer: _Writer, a: ir.Value, b: ir.Value, letters: Letters, result: Letters) -> ir.Value:
    """Both have the same letters: a product of matrices would be one of a row and a column for each of the batch."""
    return _sum(writer, writer.op("Mul", a, b), letters, result, result)[0]


def _multiply(
    writer: _Writer, way: Product, a: ir.Value, b: ir.Value, sizes: dict[str, Dim], result: Letters
) -> ir.Value:
    joined = len(way.summed) > 1
    left = way.batch if way.joins_left else way.batch + way.left
    if way.joins_left or joined:
        a = writer.reshape(a, _target(left, [*([way.left] if way.joins_left else []), way.summed], sizes))
    if way.joins_right or joined:
        right = [way.right] if way.joins_right else [(letter,) for letter in way.right]
        b = writer.reshape(b, _target(way.batch, [way.summed, *right], sizes))
    made = writer.op("MatMul", a, b)
    if way.joins_left or way.joins_right:
        made = writer.reshape(made, _target(left, [(letter,) for letter in way.made[len(left) :]], sizes))
    return writer.order(made, way.made, result)


def _target(same: Letters, groups: Sequence[Letters], sizes: dict[str, Dim]) -> list[int]:
    """A shape: the first axes as they are, then the product of each group, 1 for an empty one.

    Raises:
        Refusal: two of its sizes are not known.
    """
    shape: list[int] = []
    for letters in [*((letter,) for letter in same), *groups]:
        known = [sizes[letter] for letter in letters]
        numbers = [size for size in known if isinstance(size, int)]
        if 0 in numbers:
            raise Refusal("an operand is empty")
        shape.append(int(np.prod(numbers)) if len(numbers) == len(known) else -1)
    if shape.count(-1) > 1:
        if -1 in shape[len(same) :]:
            raise Refusal("two of the sizes to be joined are not known")
        shape[: len(same)] = [0 if size == -1 else size for size in shape[: len(same)]]
    return shape
