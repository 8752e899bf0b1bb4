"""Products of codes whose range is found at each run.

    q, s, z = DynamicQuantizeLinear(x)          once for all that read x
    y = Cast(MatMulInteger(q, W8, z)) * (s * s_w)

This order of nodes is what ONNX Runtime makes one kernel of (core/optimizer/matmul_integer_to_float.cc and
dynamic_quantize_matmul_fusion.cc, 1.31), with the addition of a bias of one number for each column behind it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._affine import Affine

FLOAT, UINT8, INT32 = ir.DataType.FLOAT, ir.DataType.UINT8, ir.DataType.INT32


class DynamicWriter:
    """Edits the graphs of a model; what several nodes read is quantised once in each graph, weights are stored once."""

    def __init__(self) -> None:
        self._codes: dict[tuple[ir.Value, ir.Graph], tuple[ir.Value, ir.Value, ir.Value]] = {}
        self._stored: dict[tuple[ir.Value, ir.Graph, str], tuple[ir.Value, ir.Value]] = {}

    def codes(self, source: ir.Value, graph: ir.Graph) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Codes, scale and zero point of a value, to be used in a graph.

        Args:
            source: float32, of this graph or an outer one.
            graph: where they will be used.
        """
        key = source, graph
        if key not in self._codes:
            node = ir.node("DynamicQuantizeLinear", [source], num_outputs=3)
            for output, kind, shape in zip(
                node.outputs, (UINT8, FLOAT, UINT8), (source.shape, ir.Shape(()), ir.Shape(())), strict=True
            ):
                output.type, output.shape = ir.TensorType(kind), shape
            producer = source.producer()
            if producer is not None and producer.graph is graph:
                gir.insert_after(producer, node)
            else:
                gir.insert_before(graph[0], node)
            self._codes[key] = node.outputs[0], node.outputs[1], node.outputs[2]
        return self._codes[key]

    def stored(
        self, weight: ir.Value, graph: ir.Graph, affine: Affine, codes: np.ndarray, form: str = ""
    ) -> tuple[ir.Value, ir.Value]:
        """The codes and the scales of a weight as constants of a graph.

        Args:
            weight: that they stand for.
            graph: that will use them.
            affine: symmetric.
            codes: of the weight.
            form: tells apart what is stored of one weight in several forms.
        """
        key = weight, graph, form
        if key not in self._stored:
            name = weight.name or "weight"
            self._stored[key] = (
                gir.new_initializer(graph, affine.codes_tensor(codes), f"{name}_quantized"),
                gir.new_initializer(graph, np.asarray(affine.scale, np.float32), f"{name}_scale"),
            )
        return self._stored[key]

    def product(
        self, node: ir.Node, operator: str, weight: tuple[ir.Value, ir.Value], bias: ir.Value | None = None
    ) -> None:
        """Put a product of integers in the place of a float one.

        Args:
            node: its first operand is the one that changes from run to run.
            operator: MatMulInteger or ConvInteger (which takes the node's attributes).
            weight: codes, and scales that broadcast over the result.
            bias: is added; broadcasts over the result.
        """
        graph, source, result = node.graph, node.inputs[0], node.outputs[0]
        assert graph is not None and source is not None
        codes, scale, zero = self.codes(source, graph)
        attributes = list(node.attributes.values()) if operator == "ConvInteger" else []
        total = ir.Node("", operator, [codes, weight[0], zero], attributes, num_outputs=1)
        floats = ir.node("Cast", [total.outputs[0]], {"to": FLOAT})
        scales = ir.node("Mul", [scale, weight[1]])
        product = ir.node("Mul", [floats.outputs[0], scales.outputs[0]])
        made = [total, floats, scales, product]
        if bias is not None:
            made.append(ir.node("Add", [product.outputs[0], bias]))
        for new in made:
            kind = INT32 if new is total else FLOAT
            new.outputs[0].type = ir.TensorType(kind)
            new.outputs[0].shape = weight[1].shape if new is scales else result.shape
        gir.replace_node(node, made, [made[-1].outputs[0]])
