"""Steps of sequences, and columns of matrices, in the ways they are taken."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import onnx_ir as ir

from graphopt import ir as gir

_SCALARS = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze")
_WIDE = (ir.DataType.INT32, ir.DataType.INT64)


@dataclass(frozen=True)
class Source:
    """A matrix [batch, features] that a gate reads.

    Attributes:
        value: the matrix, or a sequence of them.
        axis: of the steps of a sequence; -1 for a matrix.
        index: which step, as a number or as the iteration number of a loop.
        at: the matrix, where the graph has it.
    """

    value: ir.Value
    axis: int = -1
    index: int | ir.Value = 0
    at: ir.Value | None = field(default=None, compare=False)

    @property
    def dims(self) -> tuple[int | str | None, ...] | None:
        """The shape of the matrix."""
        shape = gir.dims(self.value)
        return shape if shape is None or self.axis < 0 else shape[: self.axis] + shape[self.axis + 1 :]


def source_of(value: ir.Value) -> Source:
    """A matrix, known as a step of a sequence where it is one."""
    found = step_of(value)
    return Source(value, at=value) if found is None else origin(found[0])


def origin(source: Source) -> Source:
    """The same step of the sequence before a transposition."""
    node = source.value.producer()
    if node is None or not gir.is_op(node, "Transpose") or gir.has_reference(node) or node.inputs[0] is None:
        return source
    axis = before(node, source.axis)
    return source if axis is None else replace(source, value=node.inputs[0], axis=axis)


def before(transpose: ir.Node, axis: int) -> int | None:
    """The axis of steps before a transposition that moves only this axis, to or from the front."""
    perm = tuple(gir.attribute(transpose, "perm", ()))
    return perm[axis] if perm == (1, 0, 2) and axis < 2 else None


def step_of(value: ir.Value) -> tuple[Source, list[ir.Node]] | None:
    """The sequence a matrix is a step of, and the nodes that take it."""
    node = value.producer()
    if node is None or gir.has_reference(node):
        return None
    if gir.is_op(node, "Gather"):
        index = _index(node.inputs[1], 0)
        return _taken(node, int(gir.attribute(node, "axis", 0)), index, [node], value)
    if not gir.is_op(node, "Squeeze"):
        return None
    axes = gir.known_ints(node.inputs[1]) if len(node.inputs) > 1 else gir.attribute(node, "axes")
    before = None if node.inputs[0] is None else node.inputs[0].producer()
    if axes is None or len(axes) != 1 or before is None or gir.has_reference(before) or node.inputs[0] is None:
        return None
    axis = int(axes[0])
    if gir.is_op(before, "Gather") and gir.attribute(before, "axis", 0) % 3 == axis % 3:
        return _taken(before, axis, _index(before.inputs[1], 1), [node, before], value)
    start = _offset(node.inputs[0], axis % 3)
    shape = gir.dims(node.inputs[0])
    if start is None or shape is None or len(shape) != 3 or shape[axis] != 1:
        return None
    return _taken(before, axis, start, [node, before], value)


def _taken(
    node: ir.Node, axis: int, index: int | ir.Value | None, between: list[ir.Node], value: ir.Value
) -> tuple[Source, list[ir.Node]] | None:
    shape = gir.dims(node.inputs[0])
    if shape is None or len(shape) != 3 or index is None or node.inputs[0] is None or axis % 3 == 2:
        return None
    size = shape[axis % 3]
    if isinstance(index, int) and index < 0:
        if not isinstance(size, int):
            return None
        index += size
    return Source(node.inputs[0], axis % 3, index, value), between


def _index(value: ir.Value | None, rank: int) -> int | ir.Value | None:
    """A constant index of that rank, or the iteration number of a loop."""
    elements = gir.array(value, max_elements=1)
    if elements is not None:
        return int(elements.reshape(())) if elements.ndim == rank else None
    if value is None or gir.rank(value) != rank:
        return None
    while (node := value.producer()) is not None:
        narrows = gir.is_op(node, "Cast") and gir.attribute(node, "to") not in _WIDE
        if not gir.is_op(node, *_SCALARS) or node.inputs[0] is None or narrows:
            return None
        value = node.inputs[0]
    return value if gir.rank(value) in (0, rank) and value.dtype is not None and value.dtype.is_integer() else None


def columns(value: ir.Value) -> tuple[ir.Value, int] | None:
    """The value of which another is some columns, and the first of them."""
    shape, node = gir.dims(value), value.producer()
    if shape is None or node is None or not gir.is_op(node, "Split", "Slice") or node.inputs[0] is None:
        return None
    start = _offset(value, len(shape) - 1)
    return None if start is None else (node.inputs[0], start)


def _offset(value: ir.Value, axis: int) -> int | None:
    """Where a part begins, for a result of a Split or Slice that cuts along that axis only."""
    node, shape = value.producer(), gir.dims(value)
    if node is None or shape is None or gir.has_reference(node):
        return None
    rank = len(shape)
    if gir.is_op(node, "Split") and gir.attribute(node, "axis", 0) % rank == axis:
        sizes = [(gir.dims(part) or (None,) * rank)[axis] for part in node.outputs[: value.index()]]
        known = [size for size in sizes if isinstance(size, int)]
        return sum(known) if len(known) == len(sizes) else None
    if gir.is_op(node, "Slice") and len(node.inputs) > 3:
        starts, axes = gir.known_ints(node.inputs[1]), gir.known_ints(node.inputs[3])
        steps = gir.known_ints(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else (1,)
        whole = gir.dims(node.inputs[0])
        if not starts or len(starts) != 1 or not axes or axes[0] % rank != axis or steps != (1,) or whole is None:
            return None
        start, size, part = starts[0], whole[axis], shape[axis]
        if not isinstance(part, int):
            return None
        if isinstance(size, int):
            start = min(max(start + size if start < 0 else start, 0), size)
        return start if start >= 0 else None
    return None
