"""Models of the old file format: initialisers that are graph inputs as well, which a caller may override.

Up to IR version 3 every initialiser must also be an input, so old (Caffe2) files offer all weights for
override. From IR version 4 on only deliberate defaults do.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .sketch import Sketch


def ir3_model(*, seed: int = 0) -> ir.Model:
    """A Caffe2-style CNN: IR 3, opset 7, every weight listed as an input, BN unfolded, a constant Reshape.

    ONNX Runtime takes the weights' values where no feed gives others. Feed ``data`` [1, 3, 8, 8]; the output
    is ``prob``.
    """
    g = Sketch("ir3_model", opset=7, ir_version=3, seed=seed)
    data = g.input("data", [1, 3, 8, 8])
    conv = g.op("Conv", data, g.random(4, 3, 3, 3, hint="conv_w"), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    normal = g.op(
        "BatchNormalization",
        conv,
        g.random(4, scale=0.1, shift=1.0, hint="bn_s"),
        g.random(4, scale=0.1, hint="bn_b"),
        g.random(4, scale=0.1, hint="bn_m"),
        g.weight(np.full(4, 0.8, np.float32), "bn_v"),
        epsilon=1e-5,
    )
    pooled = g.op("MaxPool", g.op("Relu", normal), kernel_shape=[2, 2], strides=[2, 2])
    flat = g.op("Reshape", pooled, g.ints(1, -1))
    logits = g.op("Gemm", flat, g.random(5, 64, hint="fc_w"), g.random(5, scale=0.1, hint="fc_b"), transB=1)
    dropped = g.op("Dropout", logits, ratio=0.5)
    g.output(g.op("Softmax", dropped, axis=1), [1, 5], name="prob")
    g.inputs += g.initializers
    return g.model()


def overridable_defaults(*, opset: int = 17, seed: int = 0) -> ir.Model:
    """IR 8 with one deliberate default (``scale``, an initialiser and an input) and one true constant.

    ``y = (x + bias * 2) * scale``: with ``scale`` fed, another ``y``. Folding ``scale`` is wrong, folding
    ``bias * 2`` is right.
    """
    g = Sketch("overridable_defaults", opset=opset, seed=seed)
    x = g.input("x", ["N", 4])
    scale = g.weight(np.ones(4, np.float32), name="scale")
    g.inputs.append(scale)
    bias = g.op("Mul", g.random(4, scale=1.0, hint="bias"), g.scalar(2.0))
    doubled = g.op("Add", scale, scale)
    scaled = g.op("Mul", g.op("Add", x, bias), scale)
    g.output(scaled, ["N", 4], name="y")
    g.output(g.op("Identity", doubled), [4], name="doubled")
    return g.model()
