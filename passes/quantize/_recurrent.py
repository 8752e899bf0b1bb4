"""LSTMs on integers: com.microsoft::DynamicQuantizeLSTM (version 1).

    LSTM(X, W[d,4h,i], R[d,4h,h], B, ...)  ->  DynamicQuantizeLSTM(X, W8[d,i,4h], R8[d,h,4h], B, ..., s_w, 0, s_r, 0)

X and the hidden state are quantised to uint8 at each step by their own range; gates and cells stay float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.target import Target

from ._affine import Affine, weight_affine
from ._behind import behind

FORM = "com.microsoft::DynamicQuantizeLSTM"
INT8 = ir.DataType.INT8

_SAME: Mapping[str, object] = {"layout": 0}


def lstm_refusal(node: ir.Node, target: Target) -> str:
    """Why an LSTM with constant input weights stays float; "" when it need not."""
    recurrence = behind(node.inputs[2])
    if recurrence is None:
        return "its recurrence weight is no constant"
    if recurrence.dtype != np.float32 or not np.isfinite(recurrence).all():
        return "its recurrence weight holds NaN or infinities, or is no float32"
    if gir.attribute(node, "layout", 0):
        return "its batch is the first axis, which DynamicQuantizeLSTM does not know"
    weight = behind(node.inputs[1])
    if weight is None or weight.ndim != 3 or recurrence.ndim != 3:
        return "its weights are no matrices for each direction"
    return target.objection(FORM, weight.size + recurrence.size) or ""


def lstm_edit(node: ir.Node, weight: np.ndarray, bits: int | None, *, per_channel: bool) -> None:
    """Put the integer LSTM in the place of a float one."""
    graph = node.graph
    recurrence = behind(node.inputs[2])
    assert graph is not None and recurrence is not None
    inputs = [*node.inputs, *([None] * (8 - len(node.inputs)))]
    parameters: list[ir.Value] = []
    for index, array in ((1, weight), (2, recurrence)):
        codes, scale = _encoded(array, bits, per_channel)
        value = node.inputs[index]
        name = value.name if value is not None and value.name else "weight"
        inputs[index] = gir.new_initializer(graph, codes, f"{name}_quantized")
        parameters.append(gir.new_initializer(graph, scale, f"{name}_scale"))
        parameters.append(gir.new_initializer(graph, np.zeros(scale.shape, np.int8), f"{name}_zero_point"))
    attributes = [item for name, item in node.attributes.items() if name not in _SAME]
    made = ir.Node(
        "com.microsoft", "DynamicQuantizeLSTM", [*inputs, *parameters], attributes, num_outputs=len(node.outputs)
    )
    for before, after in zip(node.outputs, made.outputs, strict=True):
        after.type, after.shape = before.type, before.shape
    gir.replace_node(node, [made], list(made.outputs))


def _encoded(array: np.ndarray, bits: int | None, per_channel: bool) -> tuple[np.ndarray, np.ndarray]:
    """Codes [d, inputs, 4h] and scales [d, 4h], or [d] with one for each direction."""
    codes, scales = [], []
    for matrix in array:
        affine: Affine = weight_affine(matrix, INT8, 0 if per_channel else None, bits=bits)
        codes.append(affine.encode(matrix).astype(np.int8).T)
        scales.append(affine.scale)
    return np.ascontiguousarray(np.stack(codes)), np.stack(scales).astype(np.float32)
