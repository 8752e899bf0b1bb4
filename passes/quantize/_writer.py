"""Writing QuantizeLinear and DequantizeLinear into a graph.

x -> Q -> DQ -> node            each node that computes on codes has a DequantizeLinear of its own: a runtime that
         -> DQ -> other         fuses one into its node must not find another user of it
W (codes) -> DQ -> node         weights are stored as codes, biases as int32 with scale s_x * s_w and zero point 0
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._affine import Affine
from ._placement import clamp_ends

INT32 = ir.DataType.INT32


class Writer:
    """Edits a main graph; parameters are stored once.

    Args:
        graph: the graph.
        affines: of the values that become codes, by name: names stay while the graph changes.
    """

    def __init__(self, graph: ir.Graph, affines: Mapping[str, Affine]) -> None:
        self._graph = graph
        self._affines = affines
        self._codes: dict[str, ir.Value] = {}
        self._params: dict[tuple[str, str], ir.Value] = {}

    def operand(self, node: ir.Node, index: int, name: str) -> None:
        """Let an operand of a node come from codes.

        Args:
            node: the node.
            index: of the operand.
            name: of the value that it was originally.
        """
        value = node.inputs[index]
        assert value is not None
        codes = self._codes.get(name)
        if codes is None:
            codes = self._quantise(value, name)
        back = self._dequantise(codes, name, value)
        gir.insert_before(node, back)
        node.replace_input_with(index, back.outputs[0])

    def result(self, value: ir.Value, name: str) -> None:
        """Let all users of a value have it from codes; the activation before it goes when the codes make it nothing."""
        uses = tuple(value.uses())
        producer = value.producer()
        assert producer is not None
        source = self._before_clamp(producer, self._affines[name])
        codes = self._quantise(value, name, source)
        back = self._dequantise(codes, name, value)
        quantise = codes.producer()
        assert quantise is not None
        gir.insert_after(quantise, back)
        for user, index in uses:
            user.replace_input_with(index, back.outputs[0])
        if value.is_graph_output():
            gir.replace(value, back.outputs[0])
            quantise.replace_input_with(0, source if source is not None else value)

    def weight(self, node: ir.Node, index: int, affine: Affine, codes: np.ndarray) -> None:
        """Store a constant operand as codes."""
        value = node.inputs[index]
        assert value is not None
        stored = gir.new_initializer(self._graph, affine.codes_tensor(codes), f"{value.name}_quantized")
        self._constant(node, index, stored, affine)

    def bias(self, node: ir.Node, index: int, scale: np.ndarray, codes: np.ndarray) -> None:
        """Store a bias as int32 codes of a scale for each channel (or one)."""
        value = node.inputs[index]
        assert value is not None
        stored = gir.new_initializer(self._graph, codes.astype(np.int32), f"{value.name}_quantized")
        axis = 0 if scale.ndim else None
        self._constant(node, index, stored, Affine(scale, np.zeros(scale.shape, np.int64), INT32, axis))

    def _constant(self, node: ir.Node, index: int, stored: ir.Value, affine: Affine) -> None:
        value = node.inputs[index]
        assert value is not None
        scale = gir.new_initializer(self._graph, np.asarray(affine.scale, np.float32), f"{value.name}_scale")
        operands = [stored, scale]
        if affine.kind != INT32:  # the zero point of a bias is 0, which is what none means
            operands.append(gir.new_initializer(self._graph, affine.zero_tensor(), f"{value.name}_zero_point"))
        back = ir.node("DequantizeLinear", operands, {} if affine.axis is None else {"axis": affine.axis})
        back.outputs[0].type, back.outputs[0].shape = value.type, value.shape
        back.outputs[0].name = None
        gir.insert_before(node, back)
        node.replace_input_with(index, back.outputs[0])

    def _quantise(self, value: ir.Value, name: str, source: ir.Value | None = None) -> ir.Value:
        affine = self._affines[name]
        node = ir.node("QuantizeLinear", [source if source is not None else value, *self._parameters(name)])
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(affine.kind), value.shape
        producer = value.producer()
        if producer is None or producer.graph is not self._graph:
            gir.insert_before(self._graph[0], node)
        else:
            gir.insert_after(producer, node)
        self._codes[name] = node.outputs[0]
        return node.outputs[0]

    def _dequantise(self, codes: ir.Value, name: str, like: ir.Value) -> ir.Node:
        node = ir.node("DequantizeLinear", [codes, *self._parameters(name)])
        node.outputs[0].type, node.outputs[0].shape = like.type, like.shape
        return node

    def _parameters(self, name: str) -> tuple[ir.Value, ir.Value]:
        if (name, "scale") not in self._params:
            affine = self._affines[name]
            scale = gir.new_initializer(self._graph, np.asarray(affine.scale, np.float32), f"{name}_scale")
            zero = gir.new_initializer(self._graph, affine.zero_tensor(), f"{name}_zero_point")
            self._params[name, "scale"], self._params[name, "zero"] = scale, zero
        return self._params[name, "scale"], self._params[name, "zero"]

    def _before_clamp(self, producer: ir.Node, affine: Affine) -> ir.Value | None:
        """What goes into an activation whose ends the codes have already; None where there is no such."""
        if not gir.is_op(producer, "Relu", "Clip") or affine.axis is not None:
            return None
        low, high = clamp_ends(producer)
        least, most = (float(end) for end in affine.ends())
        slack = 0.49 * float(affine.scale)  # what lies less than half a step beyond an end has the end's code
        if least < low - slack or most > high + slack:
            return None
        return producer.inputs[0]
