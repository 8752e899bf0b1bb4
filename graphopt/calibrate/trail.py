"""A graph that gets nodes for gradients, and what their rules need to know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

Shape = tuple[int, ...]


@dataclass
class Trail:
    """A graph that gets nodes for gradients.

    Attributes:
        graph: they are appended to it.
        opset: its version of the standard operators, at least 11.
        shapes: of its values in the runs it is meant for, by name.
        numbers: the small integer tensors of these runs, by name.
    """

    graph: ir.Graph
    opset: int
    shapes: Mapping[str, Shape]
    numbers: Mapping[str, np.ndarray]

    def op(self, op_type: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> ir.Value:
        """A node's first result."""
        node = ir.node(op_type, inputs, attributes)
        self.graph.append(node)
        return node.outputs[0]

    def constant(self, array: Any, kind: Any = np.float32) -> ir.Value:
        """A constant operand."""
        return gir.new_initializer(self.graph, np.asarray(array, kind), "gradient_constant")

    def shape(self, value: ir.Value | None) -> Shape:
        """Of a value of the model."""
        assert value is not None
        if value.const_value is not None:
            return tuple(int(size) for size in value.const_value.shape)  # type: ignore[arg-type]
        return self.shapes[str(value.name)]

    def ints(self, value: ir.Value | None) -> list[int] | None:
        """An integer operand, as the runs have it."""
        if value is None:
            return None
        found = gir.array(value)
        found = self.numbers.get(str(value.name)) if found is None else found
        return None if found is None else [int(number) for number in np.asarray(found).reshape(-1)]

    def reshaped(self, value: ir.Value, shape: Shape) -> ir.Value:
        """The numbers in another shape."""
        return self.op("Reshape", [value, self.constant(shape, np.int64)])

    def reduced(self, operator: str, value: ir.Value, axes: Sequence[int], keepdims: bool = True) -> ir.Value:
        """ReduceSum or ReduceMean: since 13 and 18 the axes are an operand."""
        if not axes:
            return value
        if self.opset >= (13 if operator == "ReduceSum" else 18):
            return self.op(operator, [value, self.constant(list(axes), np.int64)], keepdims=int(keepdims))
        return self.op(operator, [value], axes=list(axes), keepdims=int(keepdims))

    def summed_to(self, value: ir.Value, given: Shape, wanted: Shape) -> ir.Value:
        """Summed over what broadcasting repeated."""
        if given == wanted:
            return value
        more = len(given) - len(wanted)
        axes = [axis for axis in range(len(given)) if axis < more or (wanted[axis - more] == 1 and given[axis] != 1)]
        return self.reshaped(self.reduced("ReduceSum", value, axes), wanted)

    def where(self, condition: ir.Value, value: ir.Value) -> ir.Value:
        """The value where the condition holds, else 0."""
        return self.op("Where", [condition, value, self.constant(0.0)])


Rule = Callable[[Trail, ir.Node, ir.Value, int], ir.Value | None]
"""Of a node, the gradient of its first result and an operand's index: that of the operand; None stops it there."""
