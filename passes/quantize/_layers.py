"""Linear operators with constant weights, as what scaling their channels makes of them.

    linear(x; W, b) / s_out  on  x / s_in   =   linear(x / s_in; W s_in / s_out, b / s_out)

New constants are computed in float64 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
FLOATS = frozenset((ir.DataType.FLOAT, ir.DataType.DOUBLE))


@dataclass(frozen=True, eq=False)
class Layer:
    """A Conv, ConvTranspose, Gemm or MatMul whose second operand is a constant that nothing else uses.

    Attributes:
        node: the operator.
        groups: of a convolution; 1 otherwise.
        magnitudes: float64 [groups, outputs / groups, inputs / groups]: the largest magnitude within each kernel.
    """

    node: ir.Node
    groups: int
    magnitudes: np.ndarray

    @property
    def outputs(self) -> int:
        """How many output channels there are."""
        return self.groups * self.magnitudes.shape[1]

    @property
    def inputs(self) -> int:
        """How many input channels there are."""
        return self.groups * self.magnitudes.shape[2]

    def matrix(self) -> np.ndarray:
        """The weights of a product of matrices as they are now: [inputs, outputs]."""
        elements = gir.array(self.node.inputs[1])
        assert elements is not None and not self.node.op_type.startswith("Conv")
        return _grouped(self.node, elements, 1)[0].T

    def scaled(self, outputs: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        """The magnitudes when output channels are divided and input channels were divided by numbers."""
        shape = self.magnitudes.shape
        return self.magnitudes * inputs.reshape(shape[0], 1, shape[2]) / outputs.reshape(shape[0], shape[1], 1)

    def response(self, numbers: np.ndarray) -> np.ndarray:
        """What an input gives that is one number in each channel: float64 [outputs], without the bias."""
        elements = gir.array(self.node.inputs[1])
        assert elements is not None
        grouped = _grouped(self.node, elements, self.groups).astype(np.float64)
        kernels = grouped.sum(axis=tuple(range(3, grouped.ndim)))
        return (kernels * numbers.reshape(self.groups, 1, -1)).sum(axis=2).reshape(-1)

    def scale(self, outputs: np.ndarray, inputs: np.ndarray) -> None:
        """Divide the output channels by numbers, given an input whose channels are divided by others."""
        node, graph = self.node, self.node.graph
        assert graph is not None, "the node has been removed"
        weight = node.inputs[1]
        elements = gir.array(weight)
        assert weight is not None and elements is not None
        grouped = _grouped(node, elements, self.groups)
        shape = self.magnitudes.shape
        tail = (1,) * (grouped.ndim - 3)
        wide = grouped * inputs.reshape(shape[0], 1, shape[2], *tail) / outputs.reshape(shape[0], shape[1], 1, *tail)
        new = _ungrouped(node, wide, elements.shape).astype(elements.dtype)
        node.replace_input_with(1, gir.new_initializer(graph, new, _hint(weight)))
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        numbers = gir.array(bias)
        if bias is not None and numbers is not None and not (outputs == 1).all():
            moved = np.asarray(numbers / outputs, dtype=numbers.dtype)  # the channels of a bias are its last axis
            node.replace_input_with(2, gir.new_initializer(graph, moved, _hint(bias)))


def read(node: ir.Node, version: int) -> Layer | str | None:
    """A node as a layer; the reason why its weights cannot be scaled; None when it is no linear operator with weights.

    Args:
        node: any node.
        version: of the operator set in force.
    """
    if not gir.is_op(node, *OPERATORS) or len(node.inputs) < 2:
        return None
    weight = node.inputs[1]
    tensor = gir.constant(weight)
    if weight is None or tensor is None:
        return None
    name = gir.where(node)
    if gir.has_reference(node):
        return f"{name} has an attribute that is a parameter of the function"
    if tensor.dtype not in FLOATS:
        return f"the weights of {name} are {tensor.dtype.name}"
    if len(tuple(weight.uses())) != 1 or weight.is_graph_output():
        return f"the weights of {name} are also used elsewhere"
    elements = tensor.numpy()
    rank = elements.ndim
    if (rank != 2 if node.op_type in ("Gemm", "MatMul") else rank < 3) or not elements.size:
        return f"the weights of {name} have the shape {list(elements.shape)}"
    if node.op_type == "Gemm" and (version < 7 or gir.attribute(node, "transA", 0)):
        return f"{name} transposes its first operand, or is of an operator set below 7"
    if not np.isfinite(elements).all():
        return f"the weights of {name} hold NaN or infinities"
    groups = int(gir.attribute(node, "group", 1)) if node.op_type.startswith("Conv") else 1
    grouped = _grouped(node, elements, groups)
    magnitudes = np.abs(grouped).max(axis=tuple(range(3, grouped.ndim))).astype(np.float64)
    layer = Layer(node, groups, magnitudes)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        numbers = gir.array(bias)
        if numbers is None:
            return f"the bias of {name} is no constant"
        if not np.isfinite(numbers).all():
            return f"the bias of {name} holds NaN or infinities"
        if node.op_type != "Gemm" and numbers.shape != (layer.outputs,):
            return f"the bias of {name} has the shape {list(numbers.shape)}"
    return layer


def _grouped(node: ir.Node, elements: np.ndarray, groups: int) -> np.ndarray:
    """[groups, outputs / groups, inputs / groups, kernel ...], as a view."""
    shape = elements.shape
    if node.op_type == "Conv":
        return elements.reshape(groups, shape[0] // groups, *shape[1:])
    if node.op_type == "ConvTranspose":
        return elements.reshape(groups, shape[0] // groups, *shape[1:]).swapaxes(1, 2)
    if node.op_type == "Gemm" and gir.attribute(node, "transB", 0):
        return elements[None]
    return elements.T[None]


def _ungrouped(node: ir.Node, grouped: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if node.op_type == "Conv":
        return grouped.reshape(shape)
    if node.op_type == "ConvTranspose":
        return grouped.swapaxes(1, 2).reshape(shape)
    if node.op_type == "Gemm" and gir.attribute(node, "transB", 0):
        return grouped[0]
    return grouped[0].T


def _hint(value: ir.Value) -> str:
    return value.name or "weights"
