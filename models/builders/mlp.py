"""Multi-layer perceptrons, in the forms exporters write: MatMul + Add or Gemm, activations decomposed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import pi, sqrt
from typing import Any, Literal

import onnx_ir as ir

from .sketch import Sketch

Activation = Literal["relu", "gelu", "gelu-tanh", "silu"]


def gelu(g: Sketch, x: ir.Value) -> ir.Value:
    """``x * (erf(x / sqrt(2)) + 1) * 0.5``."""
    erf = g.op("Erf", g.op("Div", x, g.scalar(sqrt(2.0))))
    return g.op("Mul", g.op("Mul", x, g.op("Add", erf, g.scalar(1.0))), g.scalar(0.5))


def gelu_tanh(g: Sketch, x: ir.Value) -> ir.Value:
    """GELU by tanh, which is another function: ``0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))``."""
    cubed = g.op("Mul", g.op("Pow", x, g.scalar(3.0)), g.scalar(0.044715))
    inner = g.op("Mul", g.op("Add", x, cubed), g.scalar(sqrt(2.0 / pi)))
    return g.op("Mul", g.op("Mul", x, g.scalar(0.5)), g.op("Add", g.op("Tanh", inner), g.scalar(1.0)))


def activate(g: Sketch, x: ir.Value, kind: Activation) -> ir.Value:
    """The named activation, decomposed."""
    if kind == "gelu":
        return gelu(g, x)
    if kind == "gelu-tanh":
        return gelu_tanh(g, x)
    if kind == "silu":
        return g.op("Mul", x, g.op("Sigmoid", x))
    return g.op("Relu", x)


def layer_norm(g: Sketch, x: ir.Value, size: int) -> ir.Value:
    """LayerNormalization over the last axis, decomposed as exporters below opset 17 write it."""
    axes: dict[str, Any] = {"axes": [-1]} if g.opset < 18 else {}
    given = [] if g.opset < 18 else [g.ints(-1)]
    centred = g.op("Sub", x, g.op("ReduceMean", x, *given, keepdims=1, **axes))
    variance = g.op("ReduceMean", g.op("Pow", centred, g.scalar(2.0)), *given, keepdims=1, **axes)
    normal = g.op("Div", centred, g.op("Sqrt", g.op("Add", variance, g.scalar(1e-5))))
    scale = g.random(size, scale=0.1, shift=1.0, hint="norm_scale")
    return g.op("Add", g.op("Mul", normal, scale), g.random(size, scale=0.1, hint="norm_bias"))


def rms_norm(g: Sketch, x: ir.Value, size: int) -> ir.Value:
    """RMSNorm as Llama's exporters write it: ``scale * (x * (1 / sqrt(mean(x^2) + eps)))``."""
    axes: dict[str, Any] = {"axes": [-1]} if g.opset < 18 else {}
    given = [] if g.opset < 18 else [g.ints(-1)]
    mean = g.op("ReduceMean", g.op("Pow", x, g.scalar(2.0)), *given, keepdims=1, **axes)
    inverse = g.op("Reciprocal", g.op("Sqrt", g.op("Add", mean, g.scalar(1e-6))))
    return g.op("Mul", g.random(size, scale=0.1, shift=1.0, hint="norm_scale"), g.op("Mul", x, inverse))


def dense(g: Sketch, x: ir.Value, into: int, out: int, *, bias: bool = True) -> ir.Value:
    """``x @ W + b`` as MatMul and Add."""
    y = g.op("MatMul", x, g.random(into, out))
    return g.op("Add", y, g.random(out, scale=0.1, hint="bias")) if bias else y


def mlp(
    sizes: Sequence[int] = (16, 32, 32, 8),
    *,
    activation: Activation = "relu",
    form: Literal["matmul", "gemm"] = "matmul",
    normalize: bool = False,
    opset: int = 17,
    seed: int = 0,
) -> ir.Model:
    """Dense layers of the given sizes; input ``x`` [N, sizes[0]], output ``y`` [N, sizes[-1]].

    ``form="gemm"`` writes Gemm with transB, as torch does for 2-D inputs.
    """
    g = Sketch("mlp", opset=opset, seed=seed)
    value = g.input("x", ["N", sizes[0]])
    for place, (into, out) in enumerate(pairwise(sizes)):
        if form == "gemm":
            value = g.op("Gemm", value, g.random(out, into), g.random(out, scale=0.1, hint="bias"), transB=1)
        else:
            value = dense(g, value, into, out)
        if place < len(sizes) - 2:
            if normalize:
                value = layer_norm(g, value, out)
            value = activate(g, value, activation)
    g.output(value, ["N", sizes[-1]], name="y")
    return g.model()
