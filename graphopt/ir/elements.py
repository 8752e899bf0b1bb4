"""Elements of shape tensors that the rules of the shape-inference package do not follow.

- Where(c, x, y) of integer vectors with a constant condition: element by element x's or y's. Exporters write
  ``expand`` with it: Where(shape = -1, 1, shape).
- ConstantOfShape(s) has the elements of s as its shape, symbols too.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_shape_inference import ShapeInferenceContext

from .facts import array, dims, is_op

_LONGEST = 64


def follow(context: ShapeInferenceContext, node: ir.Node) -> None:
    """Note the elements, or the shape, of the node's output where they can be told."""
    if is_op(node, "ConstantOfShape"):
        _fill(context, node)
    elif is_op(node, "Where") and len(node.inputs) == 3:
        _choose(context, node)


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
