"""Which operands a result may be written over.

Element i of the result of an element-wise operator depends on element i of its operands alone, and a kernel has read
it when it writes. Left out are operators that runtimes compute as a formula of others (Gelu, Mish, HardSwish), which
read an operand twice, and those whose result has another element type. A runtime may do less: ONNX Runtime 1.31 does
so for Relu, Tanh, Sigmoid and Clip, not for Add, Pow and Erf (measured, ``docs/decisions/0012-memory-plans.md``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from .extents import Extent
from .facts import is_op

# fmt: off
_FIRST = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Clip", "Cos", "Cosh", "Elu",
    "Erf", "Exp", "Floor", "HardSigmoid", "LeakyRelu", "Log", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu",
    "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh", "ThresholdedRelu",
)
_BOTH = (
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Max", "Mean", "Min", "Mod", "Mul",
    "Or", "PRelu", "Pow", "Sub", "Sum", "Xor",
)
# fmt: on


def overwritable(node: ir.Node, sizes: Mapping[ir.Value, Extent]) -> list[ir.Value]:
    """The operands that a kernel may write its result over, if nothing else reads them.

    An operand with as many elements as the result is not broadcast, so it does not matter that the same buffer may be
    another operand as well, also as a view of another shape.
    """
    operands: Sequence[ir.Value | None] = ()
    if is_op(node, *_FIRST):
        operands = node.inputs[:1]
    elif is_op(node, *_BOTH) and len(node.inputs) <= 2:  # a sum of three would be written before the third is read
        operands = node.inputs
    elif is_op(node, "Where"):
        operands = node.inputs[1:]
    if not operands or len(node.outputs) != 1:
        return []
    result = sizes.get(node.outputs[0])
    if result is None or not result.known:
        return []
    return [value for value in operands if value is not None and sizes.get(value) == result]
