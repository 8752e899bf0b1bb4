"""Where each element is repeated next to itself, as exporters write nearest-neighbour upsampling.

Reshape(Expand|Tile(Unsqueeze(x)))    with the new axes behind those of x
Reshape(Concat(u, u)),  u = Unsqueeze(x)
Gather(x, [0, 0, 1, 1, ...])
Transpose(GatherND(Transpose(x), i))  with i made of two such lists
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._rotary import Dims
from ._sizes import product

_STEPS = 4  # as many as a tensor has axes that are resized
_LARGEST = 1 << 16  # numbers in a list of indices


@dataclass(frozen=True, eq=False)
class Repeat:
    """Elements repeated along axes.

    Attributes:
        x: what is repeated, as the nodes have it.
        shape: its shape, as far as what is behind it is concerned.
        factors: how often, for each axis.
        squeeze: axes of size 1 of ``x`` that are not in ``shape``.
        nodes: that do it, the last one first.
    """

    x: ir.Value
    shape: Dims
    factors: tuple[int, ...]
    squeeze: tuple[int, ...]
    nodes: tuple[ir.Node, ...]

    @property
    def result(self) -> Dims:
        """The shape of the result."""
        return tuple(
            size if factor == 1 else size * factor if isinstance(size, int) else _text(size, factor)
            for size, factor in zip(self.shape, self.factors, strict=True)
        )


def _text(size: str | None, factor: int) -> str:
    return f"{factor}*{size}"


def same(first: Dims, second: Dims) -> bool:
    """True if two shapes are equal in every run, however their sizes are written."""
    sizes = [[product((size,)) for size in shape] for shape in (first, second)]
    return sizes[0] == sizes[1] and None not in sizes[0]


def repeat(node: ir.Node, steps: int = _STEPS) -> Repeat | None:
    """What ends in a node, if it is such a repetition; with those before it, axis by axis, as many as ``steps``."""
    found = _one(node)
    if found is None or steps == 1:
        return found
    before = found.x.producer()
    inner = None if before is None or before.graph is not node.graph else repeat(before, steps - 1)
    if inner is None or not same(inner.result, found.shape):
        return found
    factors = tuple(one * two for one, two in zip(inner.factors, found.factors, strict=True))
    return Repeat(inner.x, inner.shape, factors, inner.squeeze, (*found.nodes, *inner.nodes))


def _one(node: ir.Node) -> Repeat | None:
    if gir.has_reference(node):
        return None
    if gir.is_op(node, "Reshape"):
        return _reshaped(node)
    if gir.is_op(node, "Gather"):
        return _gathered(node)
    return _indexed(node) if gir.is_op(node, "Transpose") else None


def _reshaped(reshape: ir.Node) -> Repeat | None:
    value = reshape.inputs[0]
    spread = None if value is None else value.producer()
    if spread is None or not gir.is_op(spread, "Expand", "Tile", "Concat") or spread.graph is not reshape.graph:
        return None
    source = spread.inputs[0]
    if spread.op_type == "Concat" and any(item is not source for item in spread.inputs):
        return None
    before, after, result = gir.dims(source), gir.dims(value), gir.dims(reshape.outputs[0])
    if source is None or before is None or after is None or result is None or len(before) != len(after):
        return None
    shape: list[int | str | None] = []
    factors: list[int] = []
    added: list[int] = []
    for axis, (old, new) in enumerate(zip(before, after, strict=True)):
        if old is None or new is None:
            return None
        if old == new:
            shape.append(old)
            factors.append(1)
        elif old != 1 or not isinstance(new, int) or not new or not shape:
            return None
        else:
            factors[-1] *= new
            added.append(axis)
    if not added:
        return None
    below = source.producer()
    x = below.inputs[0] if below is not None and gir.is_op(below, "Unsqueeze", "Reshape") else None
    nodes = (reshape, spread)
    if x is not None and below is not None and below.graph is reshape.graph and gir.dims(x) == tuple(shape):
        return Repeat(x, tuple(shape), tuple(factors), (), (*nodes, below))
    return Repeat(source, tuple(shape), tuple(factors), tuple(added), nodes)


def _gathered(gather: ir.Node) -> Repeat | None:
    x, shape = gather.inputs[0], gir.dims(gather.inputs[0])
    index = gir.array(gather.inputs[1], max_elements=_LARGEST)
    if x is None or not shape or None in shape or index is None or index.ndim != 1:
        return None
    axis = int(gir.attribute(gather, "axis", 0)) % len(shape)
    factor = _factor(index, shape[axis])
    if factor is None:
        return None
    return Repeat(x, shape, tuple(factor if place == axis else 1 for place in range(len(shape))), (), (gather,))


def _factor(index: np.ndarray, size: int | str | None) -> int | None:
    """How often each of so many numbers stands in a row, if that is all the list is."""
    if not isinstance(size, int) or size < 1 or len(index) % size or len(index) <= size:
        return None
    factor = len(index) // size
    return factor if np.array_equal(index, np.repeat(np.arange(size), factor)) else None


def _indexed(last: ir.Node) -> Repeat | None:
    """dynamo's nearest-exact: the axes are brought to the front, taken by a grid of indices, and brought back."""
    value = last.inputs[0]
    taking = None if value is None else value.producer()
    if taking is None or not gir.is_op(taking, "GatherND") or gir.attribute(taking, "batch_dims", 0):
        return None
    first = None if taking.inputs[0] is None else taking.inputs[0].producer()
    grid = gir.array(taking.inputs[1], max_elements=_LARGEST)
    if first is None or not gir.is_op(first, "Transpose") or grid is None or gir.has_reference(first):
        return None
    x, shape = first.inputs[0], gir.dims(first.inputs[0])
    order, back = tuple(gir.attribute(first, "perm", ())), tuple(gir.attribute(last, "perm", ()))
    if x is None or shape is None or None in shape or len(order) != len(shape) or len(back) != len(shape):
        return None
    count = grid.shape[-1]
    if grid.ndim != count + 1 or tuple(order[axis] for axis in back) != tuple(range(len(shape))):
        return None
    factors = [1] * len(shape)
    for place in range(count):
        indices = np.moveaxis(grid[..., place], place, 0).reshape(grid.shape[place], -1)
        factor = _factor(indices[:, 0], shape[order[place]])
        if factor is None or (indices != indices[:, :1]).any():
            return None
        factors[order[place]] = factor
    return Repeat(x, shape, tuple(factors), (), (last, taking, first))
