"""Models whose declared shapes are out of date: hints that a simplifier must not believe."""

from __future__ import annotations

import onnx_ir as ir

from .sketch import Sketch


def stale_shapes(*, opset: int = 12, seed: int = 0) -> ir.Model:
    """A declared inner shape says batch 1; the real batch is the input's N.

    ``y`` = Reshape of ``inner`` to ``[N, 2, 4]`` with N read from the (wrongly declared) ``inner``.
    Believing the declaration, a simplifier writes Reshape to [1, 2, 4], wrong for every N but 1. Opset 12
    has no ``allowzero``. ONNX Runtime 1.31 does just that when it optimises: run it without.
    """
    g = Sketch("stale_shapes", opset=opset, seed=seed)
    x = g.input("x", ["N", 8])
    inner = g.op("Relu", g.op("MatMul", x, g.random(8, 8)), out="inner")
    inner.type = ir.TensorType(ir.DataType.FLOAT)
    inner.shape = ir.Shape([1, 8])
    batch = g.op("Slice", g.op("Shape", inner), g.ints(0), g.ints(1))
    g.output(g.op("Reshape", inner, g.op("Concat", batch, g.ints(2, 4), axis=0)), ["N", 2, 4], name="y")
    return g.model()


def stale_output_shape(*, opset: int = 12, seed: int = 0) -> ir.Model:
    """The output's declared shape says batch 1; the last Reshape, to ``[0, 2, -1]``, is right for any N.

    ONNX Runtime 1.31 itself believes the declaration when it optimises, rewrites the Reshape and then fails
    for N other than 1: run it with the optimisations off.
    """
    g = Sketch("stale_output_shape", opset=opset, seed=seed)
    x = g.input("x", ["N", 8])
    inner = g.op("Relu", g.op("MatMul", x, g.random(8, 8)))
    head = g.op("Reshape", inner, g.ints(0, 2, -1))
    g.output(g.op("Reshape", g.op("Tanh", head), g.ints(0, 2, -1)), [1, 2, 4], name="y")
    return g.model()
