"""Models trained for quantisation keep their scales and become what runtimes compute on integers.

    DQ(Q(W, s, z), s, z)            ->  DQ(W8, s, z)                 W8 = Q(W), stored; also with a Clip of the codes
    Relu(DQ(Q(x)))                  ->  DQ(Q(Relu(x)))               exact: Q is monotone and Q(0) = z
    Clip(DQ(Q(x)), l, h)            ->  DQ(Q(Clip(x, l, h)))         exact where l and h have codes of their own
    Q(DQ(c, s, z), s, z)            ->  c
    Conv(DQ(x), DQ(W8), b)          ->  Conv(DQ(x), DQ(W8), DQ(b32)) b32 = round(b / (s_x s_w)), also of Gemm

Sources: Jacob et al. (2018), section 3.2, for how they are trained; ONNX 13 QuantizeLinear, whose formula is that of
the folding of W. The bias is rounded to a small part of what one code of the result is.
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

from ._affine import limits
from ._behind import behind
from ._codes import Coded, coded, same_map
from ._placement import clamp_ends
from ._weights import bias_codes

_STORED = frozenset(
    (ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16)
)


@dataclass(frozen=True)
class FoldFakeQuant(Pass):
    """Turns the QuantizeLinear and DequantizeLinear pairs of a model trained for quantisation into stored codes.

    Works in subgraphs and local functions. All but the biases is exact, bit for bit. Kept, with the reason: pairs with
    computed scales or of unusual types, an activation whose ends have no codes, biases that 32 bits do not hold.

    Attributes:
        biases: float biases of products of codes become int32 too.
    """

    name: ClassVar[str] = "fold-fake-quant"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    needs_shapes: ClassVar[bool] = True
    biases: bool = True

    def budget_db(self) -> float:
        """Rounded biases are far smaller than the codes of the results."""
        return 30.0

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each weight, activation, repeated pair and bias."""
        for body in gir.bodies(model):
            for node in body.nodes():
                if gir.is_op(node, "QuantizeLinear"):
                    yield from _weight_or_repeat(node)
                elif gir.is_op(node, "Relu", "Clip"):
                    yield from _activation(node)
                elif self.biases and gir.is_op(node, "Conv", "Gemm") and len(node.inputs) > 2:
                    yield from _bias(node)


def _weight_or_repeat(node: ir.Node) -> Sites:
    array = behind(node.inputs[0])
    if array is None:
        before, after = coded(node.inputs[0]), Coded.of_q(node)
        if before is not None and after is not None and same_map(before, after) and _positive(after):
            yield Site(gir.where(node), "codes of codes", partial(gir.replace, node.outputs[0], before.codes))
        return
    uses = tuple(use.node for use in node.outputs[0].uses())
    clip = uses[0] if len(uses) == 1 and gir.is_op(uses[0], "Clip") else None
    coding = Coded.of_q(node)
    reason = ""
    if coding is None:
        reason = "its scale or its zero point is no float32 constant, or is one for each block"
    elif coding.kind not in _STORED or array.dtype != np.float32:
        reason = f"float {array.dtype} to {coding.kind.name} is not folded"
    elif not coding.is_scalar and coding.steps.size not in array.shape[coding.axis :][:1]:
        reason = "its scales do not fit the weight"
    elif not np.isfinite(array).all() or not _positive(coding):
        reason = "the weight holds NaN or infinities, or a scale is not positive"
    elif clip is not None and any(end is not None and gir.array(end) is None for end in clip.inputs[1:]):
        clip = None
    if reason or coding is None:
        yield Site(gir.where(node), reason)
        return
    edit = partial(_fold, node, coding, array, clip)
    yield Site(gir.where(node), f"weight stored as {coding.kind.name.lower()}", edit)


def _positive(coding: Coded) -> bool:
    return bool(np.isfinite(coding.steps).all() and (coding.steps > 0).all())


def _fold(node: ir.Node, coding: Coded, array: np.ndarray, clip: ir.Node | None) -> None:
    graph = node.graph
    assert graph is not None
    low, high = limits(coding.kind)
    steps, zeros = coding.steps, coding.zeros
    if not coding.is_scalar:
        shape = [1] * array.ndim
        shape[coding.axis] = -1
        steps, zeros = steps.reshape(shape), zeros.reshape(shape)
    # array / steps in float32, as ONNX divides
    codes = np.clip(np.rint(array / steps) + zeros, low, high).astype(np.int64)
    result = node.outputs[0]
    if clip is not None:
        for bound, value in zip((np.maximum, np.minimum), clip.inputs[1:3], strict=False):
            if value is not None:
                codes = bound(codes, int(gir.scalar(value)))
        result = clip.outputs[0]
    source = node.inputs[0]
    name = source.name if source is not None and source.name else "weight"
    tensor = ir.tensor(codes.astype(coding.kind.numpy()), dtype=coding.kind)
    gir.replace(result, gir.new_initializer(graph, tensor, f"{name}_quantized"))


def _activation(node: ir.Node) -> Sites:
    back = node.inputs[0].producer() if node.inputs[0] is not None else None
    quantise = back.inputs[0].producer() if back is not None and back.inputs[0] is not None else None
    if back is None or quantise is None or not gir.is_op(quantise, "QuantizeLinear"):
        return
    source = quantise.inputs[0]
    there, here = Coded.of_q(quantise), Coded.of(back)
    if source is None or gir.has_reference(node) or there is None or here is None or not same_map(there, here):
        return
    if not gir.is_op(source.producer(), "Conv", "ConvTranspose", "Gemm", "MatMul", "Add"):
        return
    single = all(
        len(tuple(value.uses())) == 1 and not value.is_graph_output()
        for value in (quantise.outputs[0], back.outputs[0])
    )
    if not single or back.graph is not node.graph or quantise.graph is not node.graph:
        yield Site(gir.where(node), "the codes before it are also used elsewhere")
    elif not _positive(here) or not _has_codes(node, here):
        yield Site(gir.where(node), "its ends lie between two codes")
    else:
        text = f"before {gir.where(quantise)}, whose codes then do what it does"
        yield Site(gir.where(node), text, partial(_move, node, quantise, back))


def _has_codes(node: ir.Node, coding: Coded) -> bool:
    """The ends of an activation are numbers that codes stand for, so that clipping commutes with rounding."""
    if node.op_type == "Relu":
        return True
    if any(value is not None and gir.scalar(value) is None for value in node.inputs[1:]):
        return False
    low, high = limits(coding.kind)
    for end in clamp_ends(node):
        if np.isfinite(end):
            codes = np.clip(np.rint(np.float32(end) / coding.steps) + coding.zeros, low, high)
            meant = (codes - coding.zeros).astype(np.float32) * coding.steps
            if not np.array_equal(meant, np.full(codes.shape, end, np.float32)):
                return False
    return True


def _move(node: ir.Node, quantise: ir.Node, back: ir.Node) -> None:
    source, result = quantise.inputs[0], node.outputs[0]
    assert source is not None
    first = ir.Node(
        node.domain, node.op_type, [source, *node.inputs[1:]], list(node.attributes.values()), num_outputs=1
    )
    codes = ir.Node("", "QuantizeLinear", [first.outputs[0], *quantise.inputs[1:]], list(quantise.attributes.values()))
    floats = ir.Node("", "DequantizeLinear", [codes.outputs[0], *back.inputs[1:]], list(back.attributes.values()))
    for made, like in ((first, source), (codes, quantise.outputs[0]), (floats, result)):
        made.outputs[0].type, made.outputs[0].shape = like.type, like.shape
    gir.replace_node(node, [first, codes, floats], [floats.outputs[0]])


def _bias(node: ir.Node) -> Sites:
    source, weight, bias = coded(node.inputs[0]), coded(node.inputs[1]), gir.array(node.inputs[2])
    if source is None or weight is None or bias is None or gir.has_reference(node):
        return
    scale = np.asarray(source.steps.astype(np.float64) * weight.steps, np.float32)
    reason = ""
    if not source.is_scalar:
        reason = "its operand has a scale for each channel, so its bias has none"
    elif bias.ndim != 1 or bias.dtype != np.float32 or (scale.ndim and scale.size != bias.size):
        reason = "its bias is not one float32 for each channel"
    elif node.op_type == "Gemm" and (gir.attribute(node, "alpha", 1.0), gir.attribute(node, "beta", 1.0)) != (1.0, 1.0):
        reason = "alpha or beta is not 1"
    elif not _positive(source) or not _positive(weight) or not (scale > 0).all() or not np.isfinite(bias).all():
        reason = "a scale is not positive, or its bias holds NaN or infinities"
    elif (np.abs(bias.astype(np.float64) / scale) > 2**31 - 1).any():
        reason = "32 bits do not hold its bias in s_x s_w"
    yield Site(gir.where(node), reason or "its bias in int32", None if reason else partial(_store, node, scale, bias))


def _store(node: ir.Node, scale: np.ndarray, bias: np.ndarray) -> None:
    graph, value = node.graph, node.inputs[2]
    assert graph is not None and value is not None
    codes = gir.new_initializer(graph, bias_codes(bias, scale), f"{value.name}_quantized")
    steps = gir.new_initializer(graph, scale, f"{value.name}_scale")
    back = ir.node("DequantizeLinear", [codes, steps], {"axis": 0} if scale.ndim else {})
    back.outputs[0].type, back.outputs[0].shape = value.type, value.shape
    gir.insert_before(node, back)
    node.replace_input_with(2, back.outputs[0])
