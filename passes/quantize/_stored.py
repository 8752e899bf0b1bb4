"""Weights in blocks of codes, as a runtime reads them.

DequantizeLinear(q [K, N], s, z) in front of the product        one scale for a column: opset 13; blocks and 4 bits: 21;
2 bits: 25
com.microsoft::MatMulNBits(x, q [N, B, block bits / 8], s [N, B], z)        version 1, codes unsigned, low bits first
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._blocks import Blocks, Layout

FORM = "com.microsoft::MatMulNBits"
ACCURACY_LEVEL = 4
"""Products of 8-bit codes, those of the activations found at each run: lower levels are 10 times slower than floats."""

_TYPES = {
    (8, True): ir.DataType.INT8,
    (8, False): ir.DataType.UINT8,
    (4, True): ir.DataType.INT4,
    (4, False): ir.DataType.UINT4,
    (2, True): ir.DataType.INT2,
    (2, False): ir.DataType.UINT2,
}


def opset_of(layout: Layout) -> int:
    """The first operator set whose DequantizeLinear reads these codes."""
    if layout.bits == 2:
        return 25
    return 21 if layout.bits == 4 or layout.block else 13


def dequantise(
    node: ir.Node, index: int, blocks: Blocks, shape: tuple[int, ...], axis: int, *, turned: bool, blocked: bool
) -> None:
    """Let an operand of a node come from codes.

    Args:
        node: the node.
        index: of the operand.
        blocks: its rows are the outputs.
        shape: of the operand as the node reads it.
        axis: of the operand: of the outputs, or of the blocks when blocked.
        turned: the operand holds the rows as columns.
        blocked: the rows have several blocks.
    """
    graph, value = node.graph, node.inputs[index]
    assert graph is not None and value is not None
    kind = _TYPES[blocks.layout.bits, blocks.layout.symmetric]
    codes, scale, zero = blocks.codes, blocks.scale, blocks.zero
    if turned:
        codes, scale, zero = codes.T, scale.T, zero.T
    if not blocked:
        scale, zero = scale.reshape(-1), zero.reshape(-1)
    name = value.name or "weight"
    operands = [
        gir.new_initializer(graph, _tensor(codes.reshape(shape), kind), f"{name}_quantized"),
        gir.new_initializer(graph, np.ascontiguousarray(scale), f"{name}_scale"),
    ]
    if not blocks.layout.symmetric:
        operands.append(gir.new_initializer(graph, _tensor(zero, kind), f"{name}_zero_point"))
    attributes = {"axis": axis} | ({"block_size": blocks.layout.block} if blocked else {})
    back = ir.node("DequantizeLinear", operands, attributes)
    back.outputs[0].type, back.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
    gir.insert_before(node, back)
    node.replace_input_with(index, back.outputs[0])


def matmul_nbits(node: ir.Node, blocks: Blocks, bias: ir.Value | None) -> None:
    """Put a MatMulNBits in the place of a product of a value and a matrix.

    Args:
        node: MatMul or Gemm.
        blocks: their length is a power of two from 16 on.
        bias: one number for each column, or None.
    """
    graph, weight, result = node.graph, node.inputs[1], node.outputs[0]
    assert graph is not None and weight is not None
    layout, (rows, inputs) = blocks.layout, blocks.codes.shape
    size = layout.block
    count = -(-inputs // size)
    shift = 2 ** (layout.bits - 1) if layout.symmetric else 0
    codes = np.pad(blocks.codes + shift, ((0, 0), (0, count * size - inputs)), constant_values=shift)
    name = weight.name or "weight"
    operands: list[ir.Value | None] = [
        node.inputs[0],
        gir.new_initializer(graph, packed(codes, layout.bits).reshape(rows, count, -1), f"{name}_quantized"),
        gir.new_initializer(graph, blocks.scale, f"{name}_scale"),
        None
        if layout.symmetric
        else gir.new_initializer(graph, packed(blocks.zero, layout.bits), f"{name}_zero_point"),
        None,
        bias,
    ]
    while operands[-1] is None:
        operands.pop()
    attributes = {"K": inputs, "N": rows, "bits": layout.bits, "block_size": size, "accuracy_level": ACCURACY_LEVEL}
    made = ir.node("MatMulNBits", operands, attributes, domain="com.microsoft")
    made.outputs[0].type, made.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), result.shape
    gir.replace_node(node, [made], [made.outputs[0]])


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned codes [N, K] in bytes [N, ceil(K bits / 8)], each row by itself, the first code in the lowest bits."""
    each = 8 // bits
    rows, length = codes.shape
    filled = np.pad(codes, ((0, 0), (0, -length % each))).astype(np.uint8).reshape(rows, -1, each)
    found = np.zeros(filled.shape[:2], np.uint8)
    for place in range(each):
        found |= filled[:, :, place] << (bits * place)
    return found


def _tensor(codes: np.ndarray, kind: ir.DataType) -> ir.TensorProtocol:
    return ir.tensor(np.ascontiguousarray(codes).astype(kind.numpy()), dtype=kind)


def import_microsoft(model: ir.Model, body: gir.Body) -> None:
    """Declare the operators of com.microsoft in a body of a model, and in the model."""
    model.graph.opset_imports.setdefault("com.microsoft", 1)
    if body.function is not None:
        body.function.opset_imports.setdefault("com.microsoft", 1)
