"""Convolutions and what moves pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from .micro import Arrays, Micro, Sizes

_IMAGES = tuple({"h": size} for size in (7, 14, 28, 56))


def _stacked(*names: str) -> Any:
    def make(sizes: Sizes, arrays: Arrays) -> np.ndarray:
        return np.concatenate([arrays[name] for name in names])

    return make


_BLOCKS = """
y = Reshape(Transpose{perm=[0, 3, 4, 1, 5, 2]}(Reshape(x, [1, 2, 2, 16, $h, $h])), [1, 16, $d, $d])
"""
_UNBLOCKS = """
y = Reshape(Transpose{perm=[0, 3, 5, 1, 2, 4]}(Reshape(x, [1, 16, $h, 2, $h, 2])), [1, 64, $h, $h])
"""
_DOUBLED = tuple({"h": size, "d": 2 * size} for size in (8, 16, 32, 64))

IMAGES = (
    Micro(
        "com.microsoft::FusedConv",
        "y = Relu(Conv{pads=[1, 1, 1, 1]}(x, w, b))",
        'y = com.microsoft::FusedConv{pads=[1, 1, 1, 1], activation="Relu"}(x, w, b)',
        {"x": "1 64 h h"},
        _IMAGES,
        {"w": "64 64 3 3", "b": "64"},
    ),
    Micro(
        "MergedConv",
        "p = Conv(x, wp, bp)\nq = Conv(x, wq, bq)",
        "p, q = Split{axis=1, num_outputs=2}(Conv(x, w, b))",
        {"x": "1 64 h h"},
        _IMAGES,
        {"wp": "64 64 1 1", "bp": "64", "wq": "64 64 1 1", "bq": "64"},
        made={"w": _stacked("wp", "wq"), "b": _stacked("bp", "bq")},
        outputs="p q",
        opset=18,
        chain=1,
    ),
    Micro(
        "DepthToSpace",
        _BLOCKS,
        'y = DepthToSpace{blocksize=2, mode="DCR"}(x)',
        {"x": "1 64 h h"},
        _DOUBLED,
        chain=1,
    ),
    Micro("SpaceToDepth", _UNBLOCKS, "y = SpaceToDepth{blocksize=2}(x)", {"x": "1 16 d d"}, _DOUBLED, chain=1),
)
