"""The operators that work in any order of axes, and what changes in them.

Elementwise operators, broadcast ones too, need their constant operands permuted. Operators that work along axes
(Concat, Split, Slice, Pad, Softmax, ArgMax, TopK, Gather, Quantize/DequantizeLinear, ...) get other axes; those with a
list of one number for each axis (Pad, Expand, Tile, Resize) get it permuted. ONNX operators, versions 7 to 26.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._form import Form, View, is_permutable, is_standard, nominal_bytes
from ._resize import resize


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_UNARY = _names(
    """
    Abs BitwiseNot Cast CastLike Ceil Clip Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu
    Neg Not Reciprocal Relu Round Shrink Sigmoid Sign Softsign Sqrt Tanh ThresholdedRelu
    """
)
# Of these ONNX Runtime computes whole vectors and the rest of a tensor in ways that differ in the last bit.
_UNARY_BY_PLACE = _names(
    """
    Acos Acosh Asin Asinh Atan Atanh Celu Cos Cosh Elu Log Mish Selu Sin Sinh Softplus Swish Tan
    """
)
_BY_PLACE_IN_DOUBLE = frozenset(("Exp", "Gelu", "Sigmoid", "Tanh"))
_BROADCAST = _names(
    """
    Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min
    Mod Mul Or Pow PRelu Sub Sum Where Xor
    """
)
_BROADCAST_SINCE = 8  # Max, Min, Mean and Sum; Add and the like since 7
_TINY_SINCE = 21  # the first Transpose that takes floats of 8 bits, which Cast and QuantizeLinear have since 19
_OTHER_UNARY = frozenset((("com.microsoft", "Gelu"), ("com.microsoft", "QuickGelu")))


def agnostic(node: ir.Node, view: View) -> Form | None:
    """How a node works in another order, on both sides; None when it does not, or it is not known to."""
    if view.version < _TINY_SINCE and any(_is_tiny(value) for value in (*node.inputs, *node.outputs)):
        return None
    if not is_standard(node):
        return _unary(view) if (node.domain, node.op_type) in _OTHER_UNARY else None
    if node.op_type in _UNARY or node.op_type in _UNARY_BY_PLACE:
        return _unary(view)
    if node.op_type in _BROADCAST:
        return _broadcast(view)
    handler = _BY_AXIS.get(node.op_type)
    return handler(view) if handler is not None and not gir.has_reference(node) else None


def _is_tiny(value: ir.Value | None) -> bool:
    return value is not None and value.dtype is not None and value.dtype.name.startswith("FLOAT8")


def _unary(view: View) -> Form | None:
    node, value = view.node, view.input(0)
    by_place = node.op_type in _UNARY_BY_PLACE or (
        node.op_type in _BY_PLACE_IN_DOUBLE and value is not None and value.dtype == ir.DataType.DOUBLE
    )
    return _data(view, 0) if view.rounding or not by_place else None


def _data(view: View, *indices: int, **changes: object) -> Form | None:
    """The form with these operands, all of the full rank, and all results in the other order."""
    attributes = {name: value for name, value in changes.items() if name not in ("constants", "costs")}
    carried: list[int] = []
    permuted: list[int] = []
    for index in indices:
        value = view.input(index)
        if value is None or gir.rank(value) not in (None, view.rank):
            return None
        if gir.constant(value) is None:
            carried.append(index)
        elif gir.rank(value) == view.rank and is_permutable(value):
            permuted.append(index)
        else:
            return None
    return Form(
        tuple(carried),
        tuple(range(len(view.node.outputs))),
        attributes,
        changes.get("constants", {}),  # type: ignore[arg-type]
        tuple(permuted),
        (),
        changes.get("costs", (0, 0)),  # type: ignore[arg-type]
    )


def _broadcast(view: View) -> Form | None:
    if view.version < _BROADCAST_SINCE:
        return None
    carried: list[int] = []
    permuted: list[int] = []
    ranks: list[int] = []
    for index, value in enumerate(view.node.inputs):
        sizes = gir.dims(value)
        if value is None or sizes is None or len(sizes) > view.rank:
            return None
        ranks.append(len(sizes))
        is_constant = gir.constant(value) is not None
        if all(size == 1 for size in sizes) and (is_constant or len(sizes) < view.rank):
            continue  # the same in every order
        if not is_constant and len(sizes) == view.rank:
            carried.append(index)
        elif is_constant and is_permutable(value):
            permuted.append(index)
        else:
            return None
    return Form(tuple(carried), (0,), {}, {}, tuple(permuted)) if view.rank in ranks else None


def _axis_of_all(view: View) -> Form | None:
    """Concat: every operand."""
    axis = view.axis(0)
    if axis is None or view.version < 4:
        return None
    return _data(view, *range(len(view.node.inputs)), axis=view.place(axis))


def _axis_of_first(default: int, since: int = 1) -> Callable[[View], Form | None]:
    """Split, TopK: one operand, and results along the same axis."""

    def form(view: View) -> Form | None:
        axis = view.axis(default)
        return None if axis is None or view.version < since else _data(view, 0, axis=view.place(axis))

    return form


def _softmax(view: View) -> Form | None:
    """Along another axis than the last, kernels move the axis there and back themselves."""
    axis, value = view.axis(-1), view.input(0)
    if axis is None or value is None or view.version < 13:
        return None
    moves = 2 * nominal_bytes(value)
    last = view.rank - 1
    costs = (moves if axis % view.rank != last else 0, moves if view.place(axis) != last else 0)
    return _data(view, 0, axis=view.place(axis), costs=costs)


def _gather(view: View) -> Form | None:
    axis = view.axis(0)
    return _data(view, 0, axis=view.place(axis)) if axis is not None and gir.rank(view.input(1)) == 1 else None


def _gather_elements(view: View) -> Form | None:
    axis = view.axis(0)
    return _data(view, 0, 1, axis=view.place(axis)) if axis is not None else None


def _cumsum(view: View) -> Form | None:
    axis = gir.array(view.input(1), max_elements=1)
    if axis is None or axis.size != 1 or not view.are_axes([int(axis.reshape(()))]):
        return None
    moved = np.full(axis.shape, view.place(int(axis.reshape(()))), axis.dtype)
    return _data(view, 0, constants={1: moved})


def _slice(view: View) -> Form | None:
    starts = view.input(1)
    if view.version < 10:
        axes = view.attribute("axes", tuple(range(len(view.attribute("starts", ())))))
        return _data(view, 0, axes=view.places(axes)) if view.are_axes(axes) else None
    if starts is None:
        return None
    if view.input(3) is not None:
        axes = gir.known_ints(view.input(3))
    else:
        sizes = gir.static_dims(starts)
        axes = tuple(range(sizes[0])) if sizes else None
    if axes is None or not view.are_axes(axes) or starts.dtype is None:
        return None
    return _data(view, 0, constants={3: np.array(view.places(axes), starts.dtype.numpy())})


def _pad(view: View) -> Form | None:
    if view.version < 11:
        pads = view.attribute("pads")
    elif view.input(3) is not None:
        axes = gir.known_ints(view.input(3))
        if axes is None or not view.are_axes(axes):
            return None
        dtype = np.int32 if view.input(3).dtype == ir.DataType.INT32 else np.int64  # type: ignore[union-attr]
        return _data(view, 0, constants={3: np.array(view.places(axes), dtype)})
    else:
        pads = gir.known_ints(view.input(1))
    if pads is None or len(pads) != 2 * view.rank:
        return None
    moved = [pads[axis + end] for end in (0, view.rank) for axis in view.order]
    if view.version < 11:
        return _data(view, 0, pads=moved)
    return _data(view, 0, constants={1: np.array(moved, np.int64)})


def _one_for_each_axis(view: View) -> Form | None:
    """Expand, Tile: a number for each axis of a tensor that does not get more axes."""
    numbers = gir.known_ints(view.input(1))
    if numbers is None or len(numbers) != view.rank or gir.rank(view.input(0)) != view.rank:
        return None
    return _data(view, 0, constants={1: np.array([numbers[axis] for axis in view.order], np.int64)})


def _quantize(view: View) -> Form | None:
    if view.attribute("block_size", 0):
        return None
    scale = gir.rank(view.input(1))
    if scale == 0:
        return _data(view, 0)
    axis = view.axis(1)
    return _data(view, 0, axis=view.place(axis)) if scale == 1 and axis is not None and view.version >= 13 else None


def _resize(view: View) -> Form | None:
    changes = resize(view)
    return None if changes is None else _data(view, 0, constants=changes.constants, **changes.attributes)


_BY_AXIS: dict[str, Callable[[View], Form | None]] = {
    "Concat": _axis_of_all,
    "CumSum": _cumsum,
    "DequantizeLinear": _quantize,
    "Expand": _one_for_each_axis,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Hardmax": _softmax,
    "LogSoftmax": _softmax,
    "Pad": _pad,
    "QuantizeLinear": _quantize,
    "Resize": _resize,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _axis_of_first(0),
    "Tile": _one_for_each_axis,
    "TopK": _axis_of_first(-1),
    "Upsample": _resize,
}
