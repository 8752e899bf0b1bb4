"""Weights that stand behind nodes that only hand them on: exporters leave Constant, Identity, Cast and Transpose."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

_DEPTH = 8


def behind(value: ir.Value | None) -> np.ndarray | None:
    """What a value holds in every run, as constant folding would find it, or None when it is no constant.

    Looks through Identity, Cast, Transpose, Reshape, Squeeze and Unsqueeze of constants.
    """
    chain: list[ir.Node] = []
    while value is not None and gir.constant(value) is None and len(chain) < _DEPTH:
        node = value.producer()
        if node is None or not gir.is_op(node, *_HANDING_ON) or gir.has_reference(node):
            return None
        chain.append(node)
        value = node.inputs[0]
    array = gir.array(value)
    for node in reversed(chain):
        if array is None or array.dtype.kind not in "fiub":
            return None
        array = _applied(node, array)
    return array


def _applied(node: ir.Node, array: np.ndarray) -> np.ndarray | None:
    match node.op_type:
        case "Cast":
            kind = ir.DataType(gir.attribute(node, "to", 0))
            plain = kind in (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)
            return array.astype(kind.numpy()) if plain else None
        case "Transpose":
            return array.transpose(gir.attribute(node, "perm", None))
        case "Reshape" | "Squeeze" | "Unsqueeze":
            shape = gir.static_dims(node.outputs[0])
            return array.reshape(shape) if shape is not None and int(np.prod(shape)) == array.size else None
        case _:
            return array


_HANDING_ON = ("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze")
