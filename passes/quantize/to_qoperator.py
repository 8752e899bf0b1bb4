"""QuantizeLinear and DequantizeLinear around an operator become one operator on codes.

    Q(Conv(DQ(x), DQ(w), DQ(b)), s, z)  ->  QLinearConv(x, s_x, z_x, w, s_w, z_w, s, z, b)           b: int32, s_x s_w
    Q(MatMul(DQ(a), DQ(b)), s, z)       ->  QLinearMatMul(a, s_a, z_a, b, s_b, z_b, s, z)
    Q(Add(DQ(a), DQ(b)), s, z)          ->  com.microsoft::QLinearAdd(a, s_a, z_a, b, s_b, z_b, s, z), and its kin
    Q(Reshape(DQ(x, s, z)), s, z)       ->  Reshape(x), and all that only moves numbers

For runtimes that read the operator-oriented form and look for no pairs of nodes. Source: ONNX 10 QLinearConv and
QLinearMatMul; com.microsoft 1. The float form rounds once more than the integer one, so that a result may differ by one
code where it lies between two.
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

from ._codes import Coded, coded, same_map
from ._stored import import_microsoft

MICROSOFT = "com.microsoft"
_STANDARD = {"Conv": "QLinearConv", "MatMul": "QLinearMatMul"}
_FOREIGN = {
    "Add": "QLinearAdd",
    "Mul": "QLinearMul",
    "Sigmoid": "QLinearSigmoid",
    "LeakyRelu": "QLinearLeakyRelu",
    "GlobalAveragePool": "QLinearGlobalAveragePool",
    "AveragePool": "QLinearAveragePool",
    "Concat": "QLinearConcat",
    "Gemm": "QGemm",
}
_MOVING = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Expand", "Tile", "MaxPool")
_BYTES = (ir.DataType.INT8, ir.DataType.UINT8)
_TAKEN = {"LeakyRelu": ("alpha",), "Concat": ("axis",), "Gemm": ("alpha", "transA", "transB")}
_POOL = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")


@dataclass(frozen=True)
class ToQoperator(Pass):
    """Writes operators between DequantizeLinear and QuantizeLinear nodes as operators on codes.

    Works in subgraphs and local functions. What the target takes no operator on codes of, and what has codes of another
    width, a bias that is no int32 code in s_x s_w, or a result that floats are needed of, stays as it is, with the
    reason.
    """

    name: ClassVar[str] = "to-qoperator"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY

    def budget_db(self) -> float:
        """One code here and there is all that may differ."""
        return 25.0

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each operator whose result is quantised and whose operands come from codes."""
        foreign = MICROSOFT in context.target.domains
        for body in gir.bodies(model):
            for node in body.nodes():
                if not _is_candidate(node):
                    continue
                quantise = next(
                    (
                        use.node
                        for use in node.outputs[0].uses()
                        if gir.is_op(use.node, "QuantizeLinear") and not use.idx
                    ),
                    None,
                )
                if quantise is None:
                    if gir.is_op(node, *_STANDARD):
                        yield Site(gir.where(node), "its result is not quantised")
                    continue
                operands = [coded(value) for value in node.inputs]
                reason = _refusal(node, quantise, operands, foreign=foreign, version=body.version())
                if reason:
                    yield Site(gir.where(node), reason)
                else:
                    edit = partial(_edit, node, quantise, operands, model, body)
                    yield Site(gir.where(node), f"on codes, with {gir.where(quantise)}", edit)


def _is_candidate(node: ir.Node) -> bool:
    if not gir.is_op(node, *_STANDARD, *_FOREIGN, *_MOVING) or gir.has_reference(node) or not node.inputs:
        return False
    return coded(node.inputs[0]) is not None


def _unused(value: ir.Value) -> bool:
    return not value.uses() and not value.is_graph_output()


def _refusal(node: ir.Node, quantise: ir.Node, operands: list[Coded | None], *, foreign: bool, version: int) -> str:
    result = node.outputs[0]
    if (
        len(tuple(result.uses())) != 1
        or result.is_graph_output()
        or not all(_unused(output) for output in node.outputs[1:])
    ):
        return "its result is also used as floats"
    target = Coded.of_q(quantise)
    if target is None or not target.is_scalar:
        return "its result has a scale for each channel, or one that is computed"
    first = operands[0]
    assert first is not None
    if gir.is_op(node, *_MOVING):
        if not first.is_scalar or not same_map(first, target):
            return "its result has another scale than its operand"
        if node.op_type == "MaxPool" and (first.kind not in _BYTES or version < 12):
            return "there is no MaxPool on these codes"
        return ""
    count = 2 if gir.is_op(node, "Conv", "Gemm") else len(node.inputs)
    factors = operands[:count]
    if any(item is None for item in factors):
        return "an operand does not come from codes"
    known = [item for item in factors if item is not None]
    if any(item.kind not in _BYTES for item in (*known, target)):
        return "its codes are not of 8 bits"
    if any(not item.is_scalar for item in (known if not gir.is_op(node, "Conv", "MatMul", "Gemm") else known[:1])):
        return "an activation has a scale for each channel"
    if node.op_type in _FOREIGN and not foreign:
        return f"the target takes no operators of {MICROSOFT}"
    if gir.is_op(node, "Conv", "MatMul", "Gemm"):
        return _product_refusal(node, known, operands)
    if node.op_type == "AveragePool" and set(gir.attribute(node, "dilations", (1,))) != {1}:
        return "there is no dilated pool on codes"
    return ""


def _product_refusal(node: ir.Node, known: list[Coded], operands: list[Coded | None]) -> str:
    source, weight = known
    if not weight.is_scalar:
        rank = gir.rank(weight.codes)
        if rank is None or (node.op_type != "Conv" and rank != 2):
            return "its weight has a scale for each channel, and it is no matrix"
        turned = node.op_type == "Gemm" and gir.attribute(node, "transB", 0)
        channels = 0 if node.op_type == "Conv" or turned else rank - 1
        if weight.axis % rank != channels:
            return "its weight has a scale for each input"
    if weight.kind is not ir.DataType.INT8 and source.kind is ir.DataType.INT8:
        return "an int8 activation with a uint8 weight"
    if node.op_type == "Gemm" and (gir.attribute(node, "transA", 0) or gir.attribute(node, "beta", 1.0) != 1.0):
        return "transA or beta"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return ""
    stored = operands[2]
    if stored is None or stored.kind is not ir.DataType.INT32 or stored.offset:
        return "its bias is stored in floats"
    alpha = gir.attribute(node, "alpha", 1.0) if node.op_type == "Gemm" else 1.0
    wanted = alpha * source.steps.astype(np.float64) * weight.steps
    if not np.allclose(np.broadcast_to(stored.steps, wanted.shape), wanted, rtol=1e-5, atol=0):
        return "its bias has another scale than s_x s_w"
    return ""


def _edit(node: ir.Node, quantise: ir.Node, operands: list[Coded | None], model: ir.Model, body: gir.Body) -> None:
    graph = node.graph
    assert graph is not None
    target = Coded.of_q(quantise)
    known = [item for item in operands if item is not None]
    assert target is not None and known
    kept = list(node.attributes.values())
    domain = ""
    if gir.is_op(node, *_MOVING):
        operator, inputs = node.op_type, [known[0].codes, *node.inputs[1:]]
    else:
        last = list(target.parameters(graph))
        operator = _STANDARD.get(node.op_type) or _FOREIGN[node.op_type]
        domain = "" if node.op_type in _STANDARD else MICROSOFT
        factors = known[:2] if gir.is_op(node, "Conv", "Gemm") else known
        inputs = [value for item in factors for value in (item.codes, *item.parameters(graph))]
        bias = known[2].codes if gir.is_op(node, "Conv", "Gemm") and len(known) > 2 else None
        if node.op_type == "Concat":
            inputs = [*last, *inputs]
        elif node.op_type == "Gemm":
            inputs = [*inputs, bias, *last]
        else:
            inputs = [*inputs, *last] + ([bias] if bias is not None else [])
    if domain:
        import_microsoft(model, body)
        names = _POOL if node.op_type == "AveragePool" else _TAKEN.get(node.op_type, ())
        kept = [item for item in kept if item.name in names]
    made = ir.Node(domain, operator, inputs, kept, num_outputs=1)
    made.outputs[0].type, made.outputs[0].shape = ir.TensorType(target.kind), node.outputs[0].shape
    gir.replace_node(quantise, [made], [made.outputs[0]])
