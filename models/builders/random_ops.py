"""Models that do not give the same result twice: nothing of them may be folded or merged."""

from __future__ import annotations

import onnx_ir as ir

from .sketch import Sketch


def random_model(*, opset: int = 17) -> ir.Model:
    """Two equal RandomNormal nodes, a RandomUniformLike, a Bernoulli.

    ``y`` is ``x`` plus noise; ``difference``, of the two noises, is zero only where someone merged the two
    generators.
    """
    g = Sketch("random_model", opset=opset)
    x = g.input("x", [2, 64])
    first = g.op("RandomNormal", shape=[2, 64])
    second = g.op("RandomNormal", shape=[2, 64])
    uniform = g.op("RandomUniformLike", x, low=0.25, high=0.75)
    coin = g.op("Bernoulli", uniform)
    g.output(g.op("Sub", first, second), [2, 64], name="difference")
    g.output(g.op("Mul", g.op("Add", x, first), coin), [2, 64], name="y")
    return g.model()


def huge_generators(*, opset: int = 17, size: int = 2048) -> ir.Model:
    """Small constants that unfold to large tensors (ConstantOfShape, Expand, Tile): folding bloats the file.

    Each generator makes ``size * size`` floats (16 MB by default), of which one row's sum is used.
    """
    g = Sketch("huge_generators", opset=opset)
    x = g.input("x", [size])
    plain = g.op("ConstantOfShape", g.ints(size, size))
    expanded = g.op("Expand", g.scalar(0.5), g.ints(size, size))
    tiled = g.op("Tile", g.random(1, size, scale=1.0), g.ints(size, 1))
    total = g.op("Add", g.op("Add", plain, expanded), tiled)
    g.output(g.op("MatMul", total, x), [size], name="y")
    return g.model()
