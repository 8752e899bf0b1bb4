"""Normalisation over the channels of pictures, which are not the last axis."""

from __future__ import annotations

from .micro import Micro

_PARTS = """
c = ReduceMean{axes=[1]}(x)
d = Sub(x, c)
n = Div(d, Sqrt(Add(ReduceMean{axes=[1]}(Pow(d, 2)), 0.000001)))
y = Add(Mul(n, g), h)
"""
_TURNED = """
t = LayerNormalization{axis=-1, epsilon=0.000001}(Transpose{perm=[0, 2, 3, 1]}(x), s, b)
y = Transpose{perm=[0, 3, 1, 2]}(t)
"""

CHANNELS = (
    Micro(
        "LayerNormalization:channels",
        _PARTS,
        _TURNED,
        {"x": "1 c h h"},
        ({"c": 768, "h": 7}, {"c": 384, "h": 14}, {"c": 192, "h": 28}, {"c": 96, "h": 56}, {"c": 256, "h": 64}),
        weights={"s": "c", "b": "c"},
        made={
            "g": lambda sizes, arrays: arrays["s"].reshape(-1, 1, 1),
            "h": lambda sizes, arrays: arrays["b"].reshape(-1, 1, 1),
        },
        chain=1,
    ),
)
