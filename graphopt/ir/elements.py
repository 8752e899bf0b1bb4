"""Elements of shape tensors that the rules of the shape-inference package do not follow.

- Where(c, x, y) of integer vectors with a constant condition: element by element x's or y's. Exporters write
  ``expand`` with it: Where(shape = -1, 1, shape).
- ConstantOfShape(s) has the elements of s as its shape, symbols too.
- Slice(x) of a vector: steps may be negative, and bounds then lie in front of the first element.
- Cast to a type that cannot hold an element: it wraps.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_shape_inference import SYM_DATA_KEY, ShapeInferenceContext

from .facts import array, dims, is_op
from .sound import slice_cuts, taken

_LONGEST = 64
_FOLLOWED = frozenset(("Cast", "ConstantOfShape", "Slice", "Where"))


def follow(context: ShapeInferenceContext, node: ir.Node) -> None:
    """Note the elements, or the shape, of the node's output where they can be told."""
    if node.op_type not in _FOLLOWED:
        return
    if is_op(node, "ConstantOfShape"):
        _fill(context, node)
    elif is_op(node, "Where") and len(node.inputs) == 3:
        _choose(context, node)
    elif is_op(node, "Slice"):
        _cut(context, node)
    elif is_op(node, "Cast"):
        _convert(context, node)


def forget_elements(context: ShapeInferenceContext, value: ir.Value) -> None:
    """Take back what is noted of a value's elements; the package has no public way, and its own note goes first."""
    context._symbolic_values.pop(value, None)  # pyright: ignore[reportPrivateUsage]
    if SYM_DATA_KEY in value.metadata_props:
        del value.metadata_props[SYM_DATA_KEY]
    if value.producer() is not None:
        value.const_value = None


def _convert(context: ShapeInferenceContext, node: ir.Node) -> None:
    result = node.outputs[0]
    if SYM_DATA_KEY not in result.metadata_props or result.dtype is None:
        return
    if not result.dtype.is_integer():  # 5 as a truth value is no longer 5
        forget_elements(context, result)
        return
    known = [item for item in context.get_symbolic_value(result) or () if isinstance(item, int)]
    if known and not (result.dtype.min <= min(known) and max(known) <= result.dtype.max):
        forget_elements(context, result)


def _cut(context: ShapeInferenceContext, node: ir.Node) -> None:
    data, result = node.inputs[0], node.outputs[0]
    if SYM_DATA_KEY not in result.metadata_props or data is None:
        return
    elements, cut = context.get_symbolic_value(data), (slice_cuts(context, node, 1) or {}).get(0)
    forget_elements(context, result)
    if elements is not None and cut is not None and None not in cut:
        context.set_symbolic_value(result, [elements[position] for position in taken(len(elements), cut)])


def _fill(context: ShapeInferenceContext, node: ir.Node) -> None:
    sizes = context.get_symbolic_value(node.inputs[0]) if node.inputs[0] is not None else None
    if sizes is None or node.outputs[0].shape is not None:
        return
    if all(isinstance(size, int) or size.value is not None for size in sizes):
        node.outputs[0].shape = ir.Shape(sizes)


def _choose(context: ShapeInferenceContext, node: ir.Node) -> None:
    result = node.outputs[0]
    length = dims(result)
    condition = array(node.inputs[0], _LONGEST)
    if condition is None or length is None or len(length) != 1 or not isinstance(length[0], int):
        return
    if result.dtype is None or not result.dtype.is_integer() or length[0] > _LONGEST:
        return
    yes, no = (_spread(context, value, length[0]) for value in node.inputs[1:])
    choice = condition.reshape(-1).tolist() * (length[0] if condition.size == 1 else 1)
    if yes is None or no is None or len(choice) != length[0]:
        return
    chosen = [first if truth else second for truth, first, second in zip(choice, yes, no, strict=True)]
    if any(isinstance(item, ir.SymbolicDim) and item.value is None for item in chosen):
        return
    context.set_symbolic_value(result, chosen)


def _spread(context: ShapeInferenceContext, value: ir.Value | None, length: int) -> list[int | ir.SymbolicDim] | None:
    """The elements, repeated when there is one; None when they are not known."""
    elements = context.get_symbolic_value(value) if value is not None else None
    if elements is None or len(elements) not in (1, length):
        return None
    return list(elements) * (length if len(elements) == 1 and length != 1 else 1)
