"""float32 -> int8 with ranges found at each run: no data is needed.

    y = MatMul(x, W)    ->    q, s, z = DynamicQuantizeLinear(x);  y = Cast(MatMulInteger(q, W8, z)) * (s * s_w)
    LSTM(x, W, R, B)    ->    com.microsoft::DynamicQuantizeLSTM(x, W8, R8, B, s_w, s_r)

with W8 = round(W / s_w), a scale for each column. Sums, norms, softmax and activations stay float32, which keeps
the accuracy of transformers.

Source: Krishnamoorthi, Quantizing deep convolutional networks for efficient inference (2018), section 2; ONNX 11
DynamicQuantizeLinear, ONNX 10 MatMulInteger and ConvInteger; com.microsoft 1 DynamicQuantizeLSTM.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.errors import GraphoptError
from graphopt.events import Site, Sites
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._affine import weight_affine
from ._behind import behind
from ._dynamic import FLOAT, DynamicWriter
from ._recurrent import lstm_edit, lstm_refusal
from ._roles import MAX_SUM
from ._stored import import_microsoft

INT8 = ir.DataType.INT8
OPERATORS = ("MatMul", "Gemm", "Conv", "LSTM", "GRU")
OPSET = 11


@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """Computes products of matrices on integers, with the range of each operand found at each run.

    Where the runtime has such a kernel also LSTMs. Works in subgraphs and local functions too. Kept in float32, with
    the reason: products whose weight is no constant, whose sum may overflow 32 bits, whose numbers are not finite or
    no float32, and small ones, where finding the range takes longer than integers save. An operand that holds NaN or
    infinities gives a result without meaning, where float32 would have spoilt some rows only.

    Attributes:
        operators: which ones become integer: MatMul, Gemm, LSTM, Conv (its integer kernel is slower than the float
            one on most processors).
        per_channel: a scale for each column of a weight, or one for all.
        reduce_range: weights use 7 bits of 8, for processors whose 8-bit products saturate (x86 without VNNI).
        at_least: the least number of elements of a weight for which it pays.
        keep: what stays float32: names of nodes, of their outputs, or operator types.
        min_sqnr_db: a result whose error is nearer to the output than that is refused.
    """

    name: ClassVar[str] = "quantize-dynamic"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    needs_shapes: ClassVar[bool] = True
    operators: tuple[str, ...] = ("MatMul", "Gemm", "LSTM")
    per_channel: bool = True
    reduce_range: bool = False
    at_least: int = 16384
    keep: tuple[str, ...] = ()
    min_sqnr_db: float = 5.0

    def __post_init__(self) -> None:
        """Operators that it does not know are refused."""
        for operator in self.operators:
            if operator not in OPERATORS:
                hint = f"known are {', '.join(OPERATORS)}"
                raise GraphoptError(f"operators holds '{operator}'", self.name, hint, usage=True)

    def budget_db(self) -> float:
        """Below it a result is no approximation any more."""
        return self.min_sqnr_db

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each product with a weight."""
        writer = DynamicWriter()
        for body in gir.bodies(model):
            for node in body.nodes():
                if not gir.is_op(node, *self.operators) or len(node.inputs) < 2:
                    continue
                array = behind(node.inputs[1])
                if array is None and node.op_type == "MatMul":
                    continue  # a product of two activations is nothing that anyone would expect here
                reason = self._refusal(node, array, body.version(), context)
                if reason:
                    yield Site(gir.where(node), f"kept float32: {reason}")
                elif array is not None:
                    each = "a scale for each channel" if self.per_channel else "one scale"
                    text = f"on integers, ranges found at each run: weight int8, {each}"
                    yield Site(gir.where(node), text, partial(self._edit, writer, node, array, model, body))

    def _refusal(self, node: ir.Node, array: np.ndarray | None, version: int, context: Context) -> str:
        source = node.inputs[0]
        named = {node.op_type, node.name, *(output.name for output in node.outputs)}
        if named & set(filter(None, self.keep)):
            return "asked for"
        if version < OPSET:
            return f"DynamicQuantizeLinear needs opset {OPSET}, this has {version}: convert-opset raises it"
        if node.op_type == "GRU":
            return "no runtime has a GRU on integers"
        if gir.has_reference(node):
            return "an attribute is a parameter of the function"
        if array is None:
            return "its weight is no constant"
        if source is None or source.dtype != FLOAT or array.dtype != np.float32:
            kind = source.dtype.name if source is not None and source.dtype is not None else "not known"
            return f"its element type is {kind}"
        if behind(source) is not None:
            return "both operands are constants"
        if not np.isfinite(array).all():
            return "its weight holds NaN or infinities"
        if array.size < self.at_least:
            return f"its weight has {array.size:,} elements, too few for integers to pay"
        if node.op_type == "LSTM":
            return lstm_refusal(node, context.target)
        depth = array.size // array.shape[0] if node.op_type == "Conv" else array.size // max(array.shape[-1], 1)
        if node.op_type == "Gemm" and gir.attribute(node, "transB", 0):
            depth = array.shape[-1]
        if depth > MAX_SUM:
            return f"a sum of {depth:,} products may overflow 32 bits"
        operator = "ConvInteger" if node.op_type == "Conv" else "MatMulInteger"
        return _shape_refusal(node, array) or context.target.objection(operator) or ""

    def products(self, model: ir.Model, context: Context) -> list[ir.Node]:
        """The products of the main graph that would be computed on integers; ``keep`` may name their outputs.

        Args:
            model: with shapes inferred (``graphopt.ir.infer``).
            context: with the target.
        """
        version = model.graph.opset_imports.get("", 0)
        found = [node for node in model.graph if gir.is_op(node, *self.operators) and len(node.inputs) > 1]
        arrays = {node: behind(node.inputs[1]) for node in found}
        return [
            node
            for node, array in arrays.items()
            if array is not None and not self._refusal(node, array, version, context)
        ]

    def _edit(self, writer: DynamicWriter, node: ir.Node, array: np.ndarray, model: ir.Model, body: gir.Body) -> None:
        bits = 7 if self.reduce_range else None
        if node.op_type == "LSTM":
            lstm_edit(node, array, bits, per_channel=self.per_channel)
            import_microsoft(model, body)
            return
        graph, weight = node.graph, node.inputs[1]
        assert graph is not None and weight is not None
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if node.op_type == "Conv":
            affine = weight_affine(array, INT8, 0 if self.per_channel else None, bits=bits)
            tail = (1,) * (array.ndim - 2)
            stored, scale = writer.stored(weight, graph, affine, affine.encode(array), "Conv")
            if self.per_channel:
                scale = gir.new_initializer(graph, affine.scale.reshape(-1, *tail), f"{weight.name}_scales")
            numbers = gir.array(bias)
            if numbers is not None:
                bias = gir.new_initializer(graph, numbers.reshape(-1, *tail), f"{weight.name}_bias")
            writer.product(node, "ConvInteger", (stored, scale), bias)
            return
        turned = node.op_type == "Gemm" and gir.attribute(node, "transB", 0)
        alpha = gir.attribute(node, "alpha", 1.0) if node.op_type == "Gemm" else 1.0
        matrix = np.ascontiguousarray(array.T if turned else array) * np.float32(alpha)
        affine = weight_affine(matrix, INT8, 1 if self.per_channel else None, bits=bits)
        form = f"{'turned' if turned else 'plain'} {alpha}"
        writer.product(node, "MatMulInteger", writer.stored(weight, graph, affine, affine.encode(matrix), form), bias)


def _shape_refusal(node: ir.Node, array: np.ndarray) -> str:
    if node.op_type == "Conv":
        if array.ndim < 3 or not array.size:
            return f"its weight has the shape {list(array.shape)}"
        if len(node.inputs) > 2 and node.inputs[2] is not None and gir.array(node.inputs[2]) is None:
            return "its bias is no constant"
        return ""
    if array.ndim != 2 or not array.size:
        return f"its weight has the shape {list(array.shape)}"
    if node.op_type == "Gemm":
        if gir.attribute(node, "transA", 0):
            return "its first operand is transposed"
        if len(node.inputs) > 2 and node.inputs[2] is not None and gir.attribute(node, "beta", 1.0) != 1.0:
            return "beta is not 1"
        if not np.isfinite(array * np.float32(gir.attribute(node, "alpha", 1.0))).all():
            return "its weight times alpha is not finite"
    elif gir.rank(node.inputs[0]) in (None, 1):
        return "its first operand may be a vector"
    return ""
