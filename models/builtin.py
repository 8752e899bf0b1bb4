"""The model the demo works on when no other can be had: a small MobileNetV3, made on the spot.

It has what real exports have: BatchNormalization unfolded, HardSwish and HardSigmoid as chains, squeeze
and excite, dropout, shape arithmetic before the classifier, a normalisation of the input by constants, and
the same numbers stored again and again.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .builders.cnn import batch_norm, conv, flatten_by_shape, hard_swish, inverted_residual
from .builders.sketch import Sketch
from .samples import Feeds, text_line

# Of each block: kernel, channels out, expansion, squeeze-excite, stride.
_BLOCKS = (
    (3, 16, 2, True, 2),
    (3, 24, 4, False, 2),
    (3, 24, 3, False, 1),
    (5, 40, 4, True, 1),
    (5, 40, 6, True, 1),
    (5, 48, 3, True, 2),
    (5, 48, 6, True, 1),
)


def builtin(*, classes: int = 100, size: int = 96, seed: int = 0) -> ir.Model:
    """MobileNetV3-like, of random weights: ``image`` [N, 3, size, size] in 0..255 to ``probabilities``."""
    g = Sketch("mobile", opset=13, seed=seed, gain=1.6)
    image = g.input("image", ["N", 3, size, size])
    mean = g.constant(np.asarray([123.7, 116.3, 103.5], np.float32).reshape(1, 3, 1, 1))
    deviation = g.constant(np.asarray([58.4, 57.1, 57.4], np.float32).reshape(1, 3, 1, 1))
    x = g.op("Div", g.op("Sub", g.op("Cast", image, to=int(ir.DataType.FLOAT)), mean), deviation)
    x = hard_swish(g, batch_norm(g, conv(g, x, (3, 16), stride=2), 16))
    channels = 16
    for kernel, out, expand, excite, stride in _BLOCKS:
        x = inverted_residual(g, x, (channels, out), expand, kernel=kernel, stride=stride, excite=excite)
        channels = out
    x = hard_swish(g, batch_norm(g, conv(g, x, (channels, 288), 1), 288))
    flat = flatten_by_shape(g, g.op("GlobalAveragePool", x))
    hidden = g.op("Add", g.op("MatMul", flat, g.random(288, 256)), g.random(256, scale=0.1, hint="bias"))
    hidden = g.op("Identity", g.op("Dropout", hard_swish(g, hidden)))
    logits = g.op("Add", g.op("MatMul", hidden, g.random(256, classes)), g.random(classes, scale=0.1, hint="bias"))
    g.output(g.op("Softmax", logits, axis=1), ["N", classes], name="probabilities")
    return g.model()


def builtin_samples(*, size: int = 96, count: int = 4) -> list[Feeds]:
    """Images for ``builtin``: drawn text on paper of changing colours, in 0..255."""
    rng = np.random.default_rng(0)
    feeds: list[Feeds] = []
    for text in ("GRAPH", "NODE", "EDGE", "MODEL", "TENSOR", "SHIP", "DATA", "PASS")[:count]:
        drawn = text_line(text, height=size, width=size).astype(np.float32)
        tint = rng.uniform(0.5, 1.0, (3, 1, 1)).astype(np.float32)
        feeds.append({"image": np.ascontiguousarray((drawn[None] * tint)[None], np.float32)})
    return feeds
