"""Where a rule of the shape-inference package says more than is certain, say less.

``correct`` runs behind the rule of a node and takes back what does not hold for every size a symbol may stand for:

- two different symbols in one place of a broadcast: either may be 1, so the result is neither;
- a slice of a symbolic size: it may be shorter than the bounds ask for; bounds, axes or steps that are not known;
- Squeeze without axes: a symbolic size may be 1, so not even the rank is known;
- Expand of a tensor of unknown rank;
- Resize and Upsample by a scale: runtimes multiply in float32, which symbols cannot follow.

A size of 0 is a size: empty tensors occur (a cache before its first token).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx_ir as ir
from onnx_shape_inference import ShapeInferenceContext

from .facts import STANDARD_DOMAINS, attribute, constant, dims

_FAR = 2**31 - 1  # bounds from here on mean "to the end": no axis is longer
_LIMITED = re.compile(r"Min\(([0-9]+), (.+)\)\Z")
_BROADCASTING = frozenset(
    ("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Expand", "Greater",
     "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum", "Where",
     "Xor")
)  # fmt: skip
_CORRECTED = _BROADCASTING | {"MatMul", "Slice", "Squeeze", "Resize", "Upsample"}


def correct(context: ShapeInferenceContext, node: ir.Node) -> None:
    """Take back from a node's outputs what is not certain."""
    if node.op_type not in _CORRECTED or node.domain not in STANDARD_DOMAINS:
        return
    if not node.outputs or node.outputs[0].shape is None:
        return
    match node.op_type:
        case "Expand" if dims(node.inputs[0]) is None:
            node.outputs[0].shape = None
        case operator if operator in _BROADCASTING:
            _broadcast(context, node)
        case "MatMul":
            _broadcast(context, node, matrix=2)
        case "Slice":
            _slice(context, node)
        case "Squeeze" if not _has_axes(node):
            if not all(isinstance(size, int) for size in dims(node.inputs[0]) or (None,)):
                node.outputs[0].shape = None
        case "Resize" | "Upsample":
            _scaled(context, node)
        case _:
            return


def _renew(context: ShapeInferenceContext, value: ir.Value, axes: set[int]) -> None:
    """Give these sizes names of their own: nothing is known of them."""
    assert value.shape is not None
    value.shape = ir.Shape(
        [context.new_symbolic_dim() if axis in axes else dim for axis, dim in enumerate(value.shape.dims)]
    )


def _broadcast(context: ShapeInferenceContext, node: ir.Node, matrix: int = 0) -> None:
    """The last ``matrix`` axes do not take part (numpy's rules for matmul)."""
    result = node.outputs[0]
    shapes = [_operand(context, node, index) for index in range(len(node.inputs))]
    if _is_plain(shapes):
        return
    if matrix and any(shape is None or len(shape) < matrix for shape in shapes):
        return
    size = len(dims(result) or ())
    doubtful: set[int] = set()
    for axis in range(size - matrix):
        position = axis - size
        found = {shape[position] if -position <= len(shape) else 1 for shape in shapes if shape is not None}
        unknown = any(shape is None for shape in shapes)
        if unknown:
            found.add(None)
        sizes = found - {1}
        if not _is_decided(sizes):
            doubtful.add(axis)
        else:
            _set(result, axis, sizes)
    if doubtful:
        _renew(context, result, doubtful)


def _is_plain(shapes: Sequence[tuple[int | str | None, ...] | None]) -> bool:
    """True when all shapes that are not of ones only are one and the same."""
    first = None
    for shape in shapes:
        if shape is None or None in shape:
            return False
        if shape.count(1) != len(shape) and shape != (first := first or shape):
            return False
    return True


def _set(result: ir.Value, axis: int, sizes: set[int | str | None]) -> None:
    """Of two symbols that decide each other, the shorter one is S; a number goes before both."""
    if len(sizes) == 2 and result.shape is not None:
        size = next((item for item in sizes if isinstance(item, int)), None) or min(map(str, sizes), key=len)
        result.shape = ir.Shape([size if index == axis else dim for index, dim in enumerate(result.shape.dims)])


def _operand(context: ShapeInferenceContext, node: ir.Node, index: int) -> tuple[int | str | None, ...] | None:
    """The shape of an operand; the second operand of Expand is itself a shape."""
    value = node.inputs[index]
    if node.op_type != "Expand" or index == 0 or value is None:
        return dims(value)
    elements = context.get_symbolic_value(value)
    if elements is None:
        return None
    return tuple(item if isinstance(item, int) else item.value for item in elements)


def _is_decided(sizes: set[int | str | None]) -> bool:
    """Whether a broadcast of these sizes, none of them 1, has one possible result.

    A number stands against any symbol, for that must be 1 or the number. S against Min(k, S), k > 1, is S: if S were
    larger than k, the two would differ and neither be 1, which is an error.
    """
    if any(isinstance(size, int) for size in sizes):
        return True
    if None in sizes:
        return False
    if len(sizes) != 2:
        return len(sizes) < 2
    first, second = sorted((str(size) for size in sizes), key=len)
    match = _LIMITED.match(second)
    return match is not None and int(match[1]) > 1 and match[2] == first


def _slice(context: ShapeInferenceContext, node: ir.Node) -> None:
    """The library takes unknown axes and steps for absent ones, and bounds beyond the first element for that one."""
    data, result = node.inputs[0], node.outputs[0]
    before, after = dims(data), dims(result)
    if data is None or before is None or after is None or len(before) != len(after):
        return
    cuts = slice_cuts(context, node, len(before))
    if cuts is None:
        _renew(context, result, set(range(len(before))))
        return
    doubtful: set[int] = set()
    assert data.shape is not None and result.shape is not None
    sizes: list[int | ir.SymbolicDim] = list(data.shape.dims)
    for axis, cut in cuts.items():
        size = before[axis]
        if cut[0] is not None and cut[1] is not None and isinstance(size, int):
            sizes[axis] = len(taken(size, cut))
        elif not _takes_all(cut):
            if _is_clamped(after[axis], cut):
                sizes[axis] = result.shape.dims[axis]
            else:
                doubtful.add(axis)
    result.shape = ir.Shape(sizes)
    _renew(context, result, doubtful)


Cut = tuple[int | None, int | None, int]
"""Start, end and step of one axis, as ONNX has them; None for a bound that only the run knows."""


def slice_cuts(context: ShapeInferenceContext, node: ir.Node, size: int) -> dict[int, Cut] | None:
    """What a Slice (version 10 on) of a tensor of rank ``size`` cuts, by axis; None when that is not known."""

    def read(position: int) -> list[int | None] | None:
        value = node.inputs[position] if position < len(node.inputs) else None
        elements = context.get_symbolic_value(value) if value is not None else None
        return None if elements is None else [item if isinstance(item, int) else None for item in elements]

    starts, ends, axes, steps = (read(position) for position in range(1, 5))
    given = [position < len(node.inputs) and node.inputs[position] is not None for position in range(5)]
    if (given[3] and axes is None) or (given[4] and steps is None):
        return None
    lists = [item for item in (starts, ends, axes, steps) if item is not None]
    if not lists or len({len(item) for item in lists}) > 1:
        return None
    unknown: list[int | None] = [None] * len(lists[0])
    found: dict[int, Cut] = {}
    for start, end, axis, step in zip(
        starts or unknown, ends or unknown, axes or range(len(unknown)), steps or [1] * len(unknown), strict=True
    ):
        if axis is None or not -size <= axis < size or not step:
            return None
        found[axis % size] = (start, end, step)
    return found


def taken(size: int, cut: Cut) -> range:
    """Which positions of an axis of that size a cut with known bounds takes.

    ONNX clamps like Python but for one thing: with a negative step a start in front of the first element is that one.
    """
    start, end, step = cut
    assert start is not None and end is not None, "a bound is not known"
    if step < 0 and start < -size:
        start = 0
    return range(size)[slice(start, end, step)]


def _takes_all(cut: Cut) -> bool:
    start, end, step = cut
    if start is None or end is None:
        return False
    forwards = step == 1 and start == 0 and end >= _FAR
    return forwards or (step == -1 and (start == -1 or start >= _FAR) and end <= -_FAR)


def _is_clamped(size: int | str | None, cut: Cut) -> bool:
    """A size that the library has limited to what is there.

    An end that is a difference of sizes may come out negative, and then counts from the end of the axis.
    """
    start, end, step = cut
    if start is None or start < 0 or step < 0 or not isinstance(size, str):
        return False
    return size.startswith(("Max(0,", "Min(")) and (end is not None or "-" not in size)


def _has_axes(node: ir.Node) -> bool:
    return attribute(node, "axes") is not None or (len(node.inputs) > 1 and node.inputs[1] is not None)


def _scaled(context: ShapeInferenceContext, node: ir.Node) -> None:
    """Sizes given as such are certain; sizes by a scale only where nothing is scaled."""
    if len(node.inputs) > 3 and node.inputs[3] is not None and constant(node.inputs[3]) is not None:
        return
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    if before is None or after is None:
        return
    _renew(
        context,
        node.outputs[0],
        {axis for axis, (old, new) in enumerate(zip(before, after, strict=True)) if old != new},
    )
