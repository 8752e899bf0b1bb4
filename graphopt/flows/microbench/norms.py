"""Normalisations and softmax: one operator for reductions and elementwise operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from .micro import Micro, Sizes

_ROWS = ({"s": 1}, {"s": 16}, {"s": 128}, {"s": 1024})
_IMAGES = ({"h": 7}, {"h": 28}, {"h": 56})


def _rows(form: str, plain: str, fused: str, weights: str = "", *, skip: bool = False, opset: int = 17) -> Micro:
    """A form over the last axis of [1, s, 768], with weights of that width; ``r`` is what a skip form adds."""
    inputs = {"x": "1 s 768", "r": "1 s 768"} if skip else {"x": "1 s 768"}
    return Micro(form, plain, fused, inputs, _ROWS, dict.fromkeys(weights.split(), "768"), opset=opset)


def _image(form: str, plain: str, fused: str, *, opset: int, **more: Any) -> Micro:
    """A form over [1, 64, h, h] with a weight for each channel."""
    return Micro(form, plain, fused, {"x": "1 64 h h"}, _IMAGES, {"g": "64", "b": "64"}, opset=opset, **more)


def _column(name: str) -> Any:
    def make(sizes: Sizes, arrays: Any) -> np.ndarray:
        return arrays[name].reshape(-1, 1, 1)

    return make


_LAYER = """
d = Sub(x, ReduceMean{axes=[-1]}(x))
y = Add(Mul(Div(d, Sqrt(Add(ReduceMean{axes=[-1]}(Pow(d, 2)), 1e-5))), g), b)
"""
_RMS = "y = Mul(g, Mul(x, Reciprocal(Sqrt(Add(ReduceMean(Pow(x, 2), [-1]), 1e-5)))))"
_GROUP = """
n = InstanceNormalization{epsilon=1e-5}(Reshape(x, [0, 8, -1]), ones, zeros)
y = Add(Mul(Reshape(n, [1, 64, $h, $h]), gc), bc)
"""
_INSTANCE = """
d = Sub(x, ReduceMean{axes=[2, 3]}(x))
y = Add(Mul(Div(d, Sqrt(Add(ReduceMean{axes=[2, 3]}(Mul(d, d)), 1e-5))), gc), bc)
"""
# Sum and not Add: ONNX Runtime would make the skip form of an Add by itself, and so be measured against itself.
_SUMMED = "y = LayerNormalization{axis=-1, epsilon=1e-5}(Sum(x, r), g, b)"
_SUMMED_RMS = "y = RMSNormalization{axis=-1, epsilon=1e-5}(Sum(x, r), g)"
_SOFTMAX = "e = Exp(Sub(x, ReduceMax{axes=[-1]}(x)))\ny = Div(e, ReduceSum(e, [-1]))"
_COLUMNS = {"gc": _column("g"), "bc": _column("b")}

NORMS = (
    _rows("LayerNormalization", _LAYER, "y = LayerNormalization{axis=-1, epsilon=1e-5}(x, g, b)", "g b"),
    _rows(
        "com.microsoft::SkipLayerNormalization",
        _SUMMED,
        "y = com.microsoft::SkipLayerNormalization{epsilon=1e-5}(x, r, g, b)",
        "g b",
        skip=True,
    ),
    _rows("RMSNormalization", _RMS, "y = RMSNormalization{axis=-1, epsilon=1e-5}(x, g)", "g", opset=23),
    _rows(
        "com.microsoft::SkipSimplifiedLayerNormalization",
        _SUMMED_RMS,
        "y = com.microsoft::SkipSimplifiedLayerNormalization{epsilon=1e-5}(x, r, g)",
        "g",
        skip=True,
        opset=23,
    ),
    _image(
        "GroupNormalization",
        _GROUP,
        "y = GroupNormalization{num_groups=8, epsilon=1e-5}(x, g, b)",
        opset=21,
        made={**_COLUMNS, "ones": lambda *_: np.ones(8, np.float32), "zeros": lambda *_: np.zeros(8, np.float32)},
    ),
    _image(
        "InstanceNormalization",
        _INSTANCE,
        "y = InstanceNormalization{epsilon=1e-5}(x, g, b)",
        opset=17,
        made=_COLUMNS,
    ),
    _rows("Softmax", _SOFTMAX, "y = Softmax{axis=-1}(x)"),
    _rows("LogSoftmax", "y = Log(Softmax{axis=-1}(x))", "y = LogSoftmax{axis=-1}(x)"),
)
