"""What QuantizeLinear and DequantizeLinear nodes of a model say: codes, and the numbers they stand for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir


@dataclass(frozen=True, eq=False)
class Coded:
    """A tensor of codes with constant parameters.

    Attributes:
        codes: the codes.
        kind: of the codes.
        scale: float32.
        zero: zero point, or None for 0.
        axis: of the channels where there is a scale for each.
    """

    codes: ir.Value
    kind: ir.DataType
    scale: ir.Value
    zero: ir.Value | None
    axis: int

    @classmethod
    def of(cls, node: ir.Node | None) -> Coded | None:
        """Of a DequantizeLinear with constant float32 scales; None of anything else."""
        if node is None or not gir.is_op(node, "DequantizeLinear") or gir.has_reference(node):
            return None
        codes = node.inputs[0]
        if codes is None:
            return None
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        tensor = gir.constant(codes) or gir.constant(zero)
        producer = codes.producer()
        given = Coded.of_q(producer) if producer is not None else None
        kind = tensor.dtype if tensor is not None else given.kind if given is not None else codes.dtype
        return cls._made(node, codes, kind, zero)

    @classmethod
    def of_q(cls, node: ir.Node) -> Coded | None:
        """Of a QuantizeLinear with constant float32 scales."""
        if not gir.is_op(node, "QuantizeLinear") or gir.has_reference(node):
            return None
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        tensor = gir.constant(zero)
        if zero is not None and tensor is None:
            return None
        named = gir.attribute(node, "output_dtype", 0)
        kind = tensor.dtype if tensor is not None else ir.DataType(named) if named else ir.DataType.UINT8
        return cls._made(node, node.outputs[0], kind, zero)

    @classmethod
    def _made(cls, node: ir.Node, codes: ir.Value, kind: ir.DataType | None, zero: ir.Value | None) -> Coded | None:
        scale = gir.constant(node.inputs[1])
        if kind is None or scale is None or scale.dtype != ir.DataType.FLOAT or len(scale.shape) > 1:
            return None
        if gir.attribute(node, "precision", 0) not in (0, 1):  # another type to divide in, since opset 23
            return None
        if gir.attribute(node, "block_size", 0) or (zero is not None and gir.constant(zero) is None):
            return None
        parameter = node.inputs[1]
        assert parameter is not None
        return cls(codes, kind, parameter, zero, gir.attribute(node, "axis", 1))

    @property
    def steps(self) -> np.ndarray:
        """The scale, [] or [channels]."""
        array = gir.array(self.scale)
        assert array is not None
        return array.reshape(()) if array.size == 1 else array

    @property
    def zeros(self) -> np.ndarray:
        """The zero point as int, [] or [channels]."""
        array = gir.array(self.zero)
        found = np.zeros(self.steps.shape, np.int64) if array is None else array.astype(np.int64)
        return found.reshape(()) if found.size == 1 else found

    @property
    def offset(self) -> bool:
        """Some zero point is not 0."""
        return bool(self.zeros.any())

    @property
    def is_scalar(self) -> bool:
        """There is one scale."""
        return not self.steps.ndim

    def parameters(self, graph: ir.Graph) -> tuple[ir.Value, ir.Value]:
        """Scale and zero point as operators on codes want them: the zero point is there."""
        if self.zero is not None:
            return self.scale, self.zero
        zero = ir.tensor(np.zeros(gir.array(self.scale).shape, self.kind.numpy()), dtype=self.kind)  # type: ignore[union-attr]
        return self.scale, gir.new_initializer(graph, zero, f"{self.scale.name}_zero_point")


def coded(value: ir.Value | None) -> Coded | None:
    """The codes that a float value comes from, or None."""
    return Coded.of(value.producer()) if value is not None else None


def same_map(left: Coded, right: Coded) -> bool:
    """The same codes stand for the same numbers."""
    return (
        left.kind == right.kind
        and np.array_equal(left.steps, right.steps)
        and np.array_equal(left.zeros, right.zeros)
        and (left.is_scalar or left.axis == right.axis)
    )
