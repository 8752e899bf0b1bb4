"""Where a rule of the shape-inference package says more than is certain, say less.

``correct`` runs behind the rule of a node and takes back what does not hold for every size a symbol may stand for:

- two different symbols in one place of a broadcast: either may be 1, so the result is neither;
- a slice of a symbolic size: it may be shorter than the bounds ask for;
- Squeeze without axes: a symbolic size may be 1, so not even the rank is known;
- Expand of a tensor of unknown rank;
- Resize and Upsample by a scale: runtimes multiply in float32, which symbols cannot follow.

A size of 0 is a size: empty tensors occur (a cache before its first token).
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_shape_inference import ShapeInferenceContext

from .facts import STANDARD_DOMAINS, attribute, constant, dims, known_ints

_BROADCASTING = frozenset(
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Expand Greater GreaterOrEqual Less LessOrEqual Max Mean Min "
    "Mod Mul Or Pow Sub Sum Where Xor".split()
)


def correct(context: ShapeInferenceContext, node: ir.Node) -> None:
    """Take back from a node's outputs what is not certain."""
    if node.domain not in STANDARD_DOMAINS or not node.outputs or node.outputs[0].shape is None:
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


def _renew(context: ShapeInferenceContext, value: ir.Value, axes: set[int]) -> None:
    """Give these sizes names of their own: nothing is known of them."""
    assert value.shape is not None
    value.shape = ir.Shape(
        [context.new_symbolic_dim() if axis in axes else dim for axis, dim in enumerate(value.shape.dims)]
    )


def _broadcast(context: ShapeInferenceContext, node: ir.Node, matrix: int = 0) -> None:
    """The last ``matrix`` axes do not take part (numpy's rules for matmul)."""
    result = node.outputs[0]
    shapes = [_operand(node, index) for index in range(len(node.inputs))]
    if matrix and any(shape is None or len(shape) < matrix for shape in shapes):
        return
    size = len(dims(result) or ())
    doubtful: set[int] = set()
    for axis in range(size - matrix):
        position = axis - size
        found = {shape[position] if -position <= len(shape) else 1 for shape in shapes if shape is not None}
        unknown = any(shape is None for shape in shapes)
        sizes = found - {1}
        has_number = any(isinstance(item, int) for item in sizes)
        if not has_number and (len(sizes) > 1 or unknown):
            doubtful.add(axis)
    if doubtful:
        _renew(context, result, doubtful)


def _operand(node: ir.Node, index: int) -> tuple[int | str | None, ...] | None:
    value = node.inputs[index]
    if node.op_type != "Expand" or index == 0:
        return dims(value)
    target = known_ints(value)
    if target is not None:
        return tuple(target)
    result = dims(node.outputs[0])  # a symbolic target: trust only what the first operand confirms
    source = dims(node.inputs[0]) or ()
    return None if result is None or tuple(result) != tuple(source) else result


def _slice(context: ShapeInferenceContext, node: ir.Node) -> None:
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    if before is None or after is None or len(before) != len(after):
        return
    doubtful = {
        axis
        for axis, (old, new) in enumerate(zip(before, after, strict=True))
        if not isinstance(old, int) and new != old and not (isinstance(new, str) and new.startswith("Max(0,"))
    }
    if doubtful:
        _renew(context, node.outputs[0], doubtful)


def _has_axes(node: ir.Node) -> bool:
    return attribute(node, "axes") is not None or (len(node.inputs) > 1 and node.inputs[1] is not None)


def _scaled(context: ShapeInferenceContext, node: ir.Node) -> None:
    """Sizes given as such are certain; sizes by a scale only where nothing is scaled."""
    if len(node.inputs) > 3 and node.inputs[3] is not None and constant(node.inputs[3]) is not None:
        return
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    if before is None or after is None:
        return
    _renew(context, node.outputs[0], {axis for axis, (old, new) in enumerate(zip(before, after, strict=True)) if old != new})
