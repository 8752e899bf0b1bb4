"""Quantised models: int8 weights behind DequantizeLinear, which no folding may blow up to float."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .sketch import Sketch


def _int8(g: Sketch, array: np.ndarray, axis: int) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Weights, scales and zero points, symmetric, one scale for each index along ``axis``."""
    others = tuple(i for i in range(array.ndim) if i != axis)
    scale = (np.abs(array).max(axis=others) / 127).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(array.ndim)]
    weights = np.clip(np.rint(array / scale.reshape(shape)), -127, 127).astype(np.int8)
    return (
        g.weight(weights, "int8"),
        g.weight(scale, "scale"),
        g.weight(np.zeros(len(scale), np.int8), "zero"),
    )


def weight_only(*, opset: int = 17, seed: int = 0) -> ir.Model:
    """Two MatMuls with int8 weights behind DequantizeLinear (by column, and for the whole tensor)."""
    g = Sketch("weight_only", opset=opset, seed=seed)
    x = g.input("x", ["N", 32])
    first = g.op("DequantizeLinear", *_int8(g, g.noise(32, 64), 1), axis=1)
    hidden = g.op("Relu", g.op("MatMul", x, first))
    weights, scales, zeros = _int8(g, g.noise(64, 16).reshape(1, 64, 16), 0)
    flat = g.op("Reshape", weights, g.ints(64, 16))
    scale, zero = g.op("Squeeze", scales, g.ints(0)), g.op("Squeeze", zeros, g.ints(0))
    g.output(g.op("MatMul", hidden, g.op("DequantizeLinear", flat, scale, zero)), ["N", 16], name="y")
    return g.model()


def qdq_cnn(*, opset: int = 13, seed: int = 0) -> ir.Model:
    """A Conv in QDQ form: uint8 activations, int8 weights by channel, int32 bias, Relu between the pairs."""
    g = Sketch("qdq_cnn", opset=opset, seed=seed)
    x = g.input("x", ["N", 3, 8, 8])
    step, centre = g.scalar(0.03), g.scalar(128, np.uint8)
    x = g.op("DequantizeLinear", g.op("QuantizeLinear", x, step, centre), step, centre)
    weights, scales, zeros = _int8(g, g.noise(4, 3, 3, 3), 0)
    bias_scale = g.weight(np.asarray(scales.const_value) * np.float32(0.03), "bias_scale")
    bias = g.weight(np.asarray([5, -3, 2, 0], np.int32), "bias")
    bias = g.op("DequantizeLinear", bias, bias_scale, axis=0)
    kernel = g.op("DequantizeLinear", weights, scales, zeros, axis=0)
    y = g.op("Relu", g.op("Conv", x, kernel, bias, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    out_step, low = g.scalar(0.02), g.scalar(0, np.uint8)
    y = g.op("DequantizeLinear", g.op("QuantizeLinear", y, out_step, low), out_step, low)
    g.output(y, ["N", 4, 8, 8], name="y")
    return g.model()
