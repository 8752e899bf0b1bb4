"""Operators at the end of a region: one side is stored in another order, the other has no order that would matter.

Reductions without the reduced axes, Squeeze and Unsqueeze, when the axes that stay follow each other as before; Reshape
and Flatten when only axes of size 1 move; Shape and Size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._form import Form, Order, View, is_standard

_EXACT = frozenset(("ReduceMax", "ReduceMin"))
_EXACT_IN_INTEGERS = frozenset(("ReduceL1", "ReduceProd", "ReduceSum", "ReduceSumSquare"))
_SUMS = frozenset(("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum"))
_REDUCTIONS = _EXACT | _SUMS | _EXACT_IN_INTEGERS


def reduction(node: ir.Node, view: View) -> Form | None:
    """A reduction or ArgMax, whose result has the same rank (then it is in the other order too) or loses the axes."""
    if not is_standard(node) or gir.has_reference(node):
        return None
    keeps = bool(view.attribute("keepdims", 1))
    if node.op_type in ("ArgMax", "ArgMin"):
        axis = view.axis(0)
        if axis is None:
            return None
        return _reduced(view, [axis], keeps=keeps, attributes={"axis": view.place(axis)})
    if node.op_type not in _REDUCTIONS or not (view.rounding or _is_exact(node)):
        return None
    as_input = view.version >= (13 if node.op_type == "ReduceSum" else 18)
    axes = gir.known_ints(view.input(1)) if as_input else view.attribute("axes", ())
    if as_input and view.input(1) is None:
        axes = ()
    if axes is None or not view.are_axes(axes):
        return None
    if not axes:
        keeps = keeps or bool(view.attribute("noop_with_empty_axes", 0))
        return _reduced(view, range(view.rank), keeps=keeps)
    if as_input:
        return _reduced(view, axes, keeps=keeps, constants={1: np.array(view.places(axes), np.int64)})
    return _reduced(view, axes, keeps=keeps, attributes={"axes": view.places(axes)})


def _is_exact(node: ir.Node) -> bool:
    """Whether the order in which elements are combined does not show."""
    dtype = node.outputs[0].dtype
    return node.op_type in _EXACT or (node.op_type in _EXACT_IN_INTEGERS and dtype is not None and dtype.is_integer())


def _reduced(
    view: View,
    axes: Sequence[int],
    *,
    keeps: bool,
    attributes: dict[str, object] | None = None,
    constants: dict[int, np.ndarray] | None = None,
) -> Form | None:
    if gir.constant(view.input(0)) is not None or not (keeps or view.keeps_rest(axes)):
        return None
    return Form((0,), (0,) if keeps else (), attributes or {}, constants or {})


def exit_form(node: ir.Node, view: View) -> Form | None:
    """How a node reads its first operand in another order, and gives the same result."""
    if not is_standard(node) or gir.has_reference(node):
        return None
    handler = _EXITS.get(node.op_type)
    return handler(view) if handler is not None else None


def entry_form(node: ir.Node, view: View) -> Form | None:
    """How a node gives its result in another order, from the same operands."""
    if not is_standard(node) or gir.has_reference(node):
        return None
    if node.op_type == "Unsqueeze":
        return _unsqueeze(view)
    return _reshape_to(view) if node.op_type == "Reshape" else None


def _shape(view: View) -> Form | None:
    if "start" in view.node.attributes or "end" in view.node.attributes:
        return None
    return Form((0,), gather=tuple(view.place(axis) for axis in range(view.rank)))


def _size(view: View) -> Form | None:
    return Form((0,))


def _squeeze(view: View) -> Form | None:
    axes = gir.known_ints(view.input(1)) if view.version >= 13 else view.attribute("axes")
    if not axes or not view.are_axes(axes) or not view.keeps_rest(axes):
        return None
    return _with_axes(view, axes, (0,), ())


def _unsqueeze(view: View) -> Form | None:
    axes = gir.known_ints(view.input(1)) if view.version >= 13 else view.attribute("axes")
    if not axes or not view.are_axes(axes) or not view.keeps_rest(axes):
        return None
    return _with_axes(view, axes, (), (0,))


def _with_axes(view: View, axes: Sequence[int], carried: tuple[int, ...], results: tuple[int, ...]) -> Form:
    places = sorted(view.places(axes))
    if view.version >= 13:
        return Form(carried, results, {}, {1: np.array(places, np.int64)})
    return Form(carried, results, {"axes": places})


def _moves_only_ones(sizes: Sequence[object] | None, order: Order) -> bool:
    """The elements lie in memory as before."""
    if sizes is None or len(sizes) != len(order):
        return False
    moved = [axis for axis in order if sizes[axis] != 1]
    return moved == sorted(moved)


def _reshape_from(view: View) -> Form | None:
    target = gir.known_ints(view.input(1))
    if target is None or view.version < 5 or (0 in target and not view.attribute("allowzero", 0)):
        return None  # a 0 takes the size of the input's axis at its place
    return Form((0,)) if _moves_only_ones(gir.dims(view.input(0)), view.order) else None


def _reshape_to(view: View) -> Form | None:
    target = gir.known_ints(view.input(1))
    if target is None or view.version < 5 or len(target) != view.rank or 0 in target:
        return None
    if not _moves_only_ones(target, view.order):
        return None
    return Form((), (0,), {}, {1: np.array([target[axis] for axis in view.order], np.int64)})


def _flatten(view: View) -> Form | None:
    sizes, axis = gir.dims(view.input(0)), int(view.attribute("axis", 1))
    if sizes is None or not _moves_only_ones(sizes, view.order) or not -view.rank <= axis <= view.rank:
        return None
    axis = axis + view.rank if axis < 0 else axis
    ahead = sum(1 for other in range(axis) if sizes[other] != 1)
    counts = [sum(1 for other in view.order[:place] if sizes[other] != 1) for place in range(view.rank + 1)]
    return Form((0,), attributes={"axis": counts.index(ahead)})


_EXITS: dict[str, Callable[[View], Form | None]] = {
    "Flatten": _flatten,
    "Reshape": _reshape_from,
    "Shape": _shape,
    "Size": _size,
    "Squeeze": _squeeze,
}
