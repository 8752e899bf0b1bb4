"""Convolutional models as exporters write them: BatchNormalization unfolded, HardSwish as a chain.

The HardSwish chain is Paddle's: ``x * Clip(x + 3, 0, 6) / 6``; HardSigmoid is ``Clip(x + 3, 0, 6) / 6``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .sketch import Sketch


def batch_norm(g: Sketch, x: ir.Value, channels: int) -> ir.Value:
    """BatchNormalization with statistics that are neither zero nor one."""
    return g.op(
        "BatchNormalization",
        x,
        g.random(channels, scale=0.2, shift=1.0, hint="bn_scale"),
        g.random(channels, scale=0.1, hint="bn_bias"),
        g.random(channels, scale=0.1, hint="bn_mean"),
        g.weight(np.abs(g.noise(channels, scale=0.2, shift=1.0)) + 0.1, "bn_var"),
        epsilon=1e-5,
    )


def conv(
    g: Sketch,
    x: ir.Value,
    channels: tuple[int, int],
    kernel: int = 3,
    *,
    stride: int = 1,
    group: int = 1,
    bias: bool = False,
) -> ir.Value:
    """A padded Conv from ``channels[0]`` to ``channels[1]``."""
    into, out = channels
    weights = [g.random(out, into // group, kernel, kernel, hint="conv_weight")]
    if bias:
        weights.append(g.random(out, scale=0.1, hint="conv_bias"))
    pad = kernel // 2
    return g.op(
        "Conv",
        x,
        *weights,
        kernel_shape=[kernel] * 2,
        pads=[pad] * 4,
        strides=[stride] * 2,
        group=group,
        dilations=[1, 1],
    )


def clip_six(g: Sketch, x: ir.Value) -> ir.Value:
    """``Clip(x + 3, 0, 6)``, the bounds as inputs or (before opset 11) attributes."""
    shifted = g.op("Add", x, g.scalar(3.0))
    if g.opset < 11:
        return g.op("Clip", shifted, min=0.0, max=6.0)
    return g.op("Clip", shifted, g.scalar(0.0), g.scalar(6.0))


def hard_swish(g: Sketch, x: ir.Value) -> ir.Value:
    """``x * Clip(x + 3, 0, 6) / 6`` as Paddle writes it."""
    return g.op("Div", g.op("Mul", x, clip_six(g, x)), g.scalar(6.0))


def hard_sigmoid(g: Sketch, x: ir.Value) -> ir.Value:
    """``Clip(x + 3, 0, 6) / 6``."""
    return g.op("Div", clip_six(g, x), g.scalar(6.0))


def squeeze_excite(g: Sketch, x: ir.Value, channels: int) -> ir.Value:
    """Scales each channel by a gate computed from all channels' means."""
    squeezed = g.op("GlobalAveragePool", x)
    narrow = max(channels // 4, 2)
    hidden = g.op("Relu", conv(g, squeezed, (channels, narrow), 1, bias=True))
    gate = hard_sigmoid(g, conv(g, hidden, (narrow, channels), 1, bias=True))
    return g.op("Mul", x, gate)


def inverted_residual(
    g: Sketch,
    x: ir.Value,
    channels: tuple[int, int],
    expand: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    excite: bool = True,
) -> ir.Value:
    """MobileNetV3's block: expand, depthwise, squeeze-excite, project; added to ``x`` where shapes allow."""
    into, out = channels
    wide = into * expand
    y = hard_swish(g, batch_norm(g, conv(g, x, (into, wide), 1), wide))
    y = batch_norm(g, conv(g, y, (wide, wide), kernel, stride=stride, group=wide), wide)
    if excite:
        y = squeeze_excite(g, y, wide)
    y = batch_norm(g, conv(g, hard_swish(g, y), (wide, out), 1), out)
    return g.op("Add", x, y) if stride == 1 and into == out else y


def flatten_by_shape(g: Sketch, x: ir.Value) -> ir.Value:
    """Flattens to ``[N, -1]`` by arithmetic on the shape, as torch's and Paddle's exporters do."""
    batch = g.op("Gather", g.op("Shape", x), g.constant(np.asarray(0, np.int64)), axis=0)
    if g.opset < 13:
        batch = g.op("Unsqueeze", batch, axes=[0])
    else:
        batch = g.op("Unsqueeze", batch, g.ints(0))
    return g.op("Reshape", x, g.op("Concat", batch, g.constant(np.asarray([-1], np.int64)), axis=0))


def classifier(g: Sketch, x: ir.Value, channels: int, classes: int) -> ir.Value:
    """Average over space, flatten by shape arithmetic, MatMul + Add, Softmax."""
    flat = flatten_by_shape(g, g.op("GlobalAveragePool", x))
    logits = g.op("Add", g.op("MatMul", flat, g.random(channels, classes)), g.random(classes, scale=0.1, hint="bias"))
    return g.op("Softmax", logits, axis=1)


def small_cnn(*, opset: int = 13, classes: int = 10, size: int = 32, seed: int = 0) -> ir.Model:
    """Conv+BN+Relu, a residual block, a depthwise pair, a squeeze-excite block with HardSwish, a head.

    One input ``image`` [N, 3, size, size], one output ``probabilities`` [N, classes].
    """
    g = Sketch("small_cnn", opset=opset, seed=seed)
    x = g.input("image", ["N", 3, size, size])
    x = g.op("Relu", batch_norm(g, conv(g, x, (3, 8), stride=2), 8))
    y = g.op("Relu", batch_norm(g, conv(g, x, (8, 8)), 8))
    y = batch_norm(g, conv(g, y, (8, 8), bias=True), 8)
    x = g.op("Relu", g.op("Add", x, y))
    x = g.op("Relu", batch_norm(g, conv(g, x, (8, 8), group=8), 8))
    x = g.op("Relu", batch_norm(g, conv(g, x, (8, 16), 1), 16))
    x = inverted_residual(g, x, (16, 16), 2)
    padded = g.op("Pad", x, g.ints(0, 0, 1, 1, 0, 0, 1, 1), g.scalar(0.0))
    x = g.op("Conv", padded, g.random(16, 16, 3, 3), kernel_shape=[3, 3])
    x = g.op("Mul", x, g.random(16, 1, 1, scale=0.2, shift=1.0, hint="factor"))
    x = g.op("Add", x, g.random(1, 16, 1, 1, scale=0.1, hint="offset"))
    x = g.op("Dropout", x)
    g.output(classifier(g, x, 16, classes), ["N", classes], name="probabilities")
    return g.model()


def upsampling_cnn(*, opset: int = 13, seed: int = 0) -> ir.Model:
    """ConvTranspose+BN, BN before Conv, pooling behind a Pad; one of the two outputs is also used inside."""
    g = Sketch("upsampling_cnn", opset=opset, seed=seed)
    x = g.input("image", ["N", 4, "H", "W"])
    y = conv(g, batch_norm(g, x, 4), (4, 6), 1, bias=True)
    g.output(y, ["N", 6, "H", "W"], name="features")
    up = g.op("ConvTranspose", y, g.random(6, 4, 2, 2), kernel_shape=[2, 2], strides=[2, 2])
    up = g.op("Relu", batch_norm(g, up, 4))
    padded = g.op("Pad", up, g.ints(0, 0, 1, 1, 0, 0, 1, 1), g.scalar(0.0))
    pooled = g.op("AveragePool", padded, kernel_shape=[3, 3], strides=[1, 1])
    g.output(g.op("Sigmoid", pooled), ["N", 4, None, None], name="mask")
    return g.model()
