"""Weights that stand behind nodes are stored as what those nodes make of them: what quantisation looks for.

    MatMul(x, Transpose(Cast(Identity(W))))    ->    MatMul(x, W')              W' = the constant

Constant folding does the same where the file does not grow by it. Weights stored in float16 with a Cast behind do grow;
they are quantised right after this, which makes them smaller than they were. ONNX 1 at least.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._behind import behind

_OPERANDS = {
    "MatMul": (1,),
    "Gemm": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "LSTM": (1, 2, 3),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
    "Gather": (0,),
}


@dataclass(frozen=True)
class SettleWeights(Pass):
    """Stores weights behind Identity, Cast, Transpose, Reshape, Squeeze and Unsqueeze as constants.

    For recipes that quantise next. Operands of products, of recurrent cells and tables of Gather only; works in
    subgraphs and local functions. A weight that several nodes read is stored once. The numbers are the same.
    """

    name: ClassVar[str] = "settle-weights"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each operand that a node hands on."""
        stored: dict[tuple[ir.Value, ir.Graph], ir.Value] = {}
        for body in gir.bodies(model):
            for node in body.nodes():
                for index in _OPERANDS.get(node.op_type, ()):
                    value = node.inputs[index] if index < len(node.inputs) else None
                    if value is None or value.producer() is None or gir.constant(value) is not None:
                        continue
                    array = behind(value) if gir.is_op(node, *_OPERANDS) else None
                    if array is not None and array.dtype.kind == "f":
                        edit = partial(_settle, node, index, array, stored)
                        yield Site(gir.where(node), f"operand {index} '{value.name}' stored as {array.dtype}", edit)


def _settle(node: ir.Node, index: int, array: np.ndarray, stored: dict[tuple[ir.Value, ir.Graph], ir.Value]) -> None:
    graph, value = node.graph, node.inputs[index]
    assert graph is not None and value is not None
    if (value, graph) not in stored:
        stored[value, graph] = gir.new_initializer(graph, np.ascontiguousarray(array), value.name or "weight")
    producer = value.producer()
    node.replace_input_with(index, stored[value, graph])
    gir.erase_if_dead(producer)
