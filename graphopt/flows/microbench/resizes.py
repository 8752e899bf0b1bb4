"""Upsampling by nearest neighbours: a copy of elements by coordinates for one along new axes."""

from __future__ import annotations

import numpy as np

from .micro import Micro

_SPREAD = "y = Reshape(Expand(Unsqueeze(x, [3, 5]), [1, 16, $h, 2, $h, 2]), [1, 16, $d, $d])"
_RESIZED = """
y = Resize{mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"}(x, _, f)
"""

RESIZES = (
    Micro(
        "Resize:nearest",
        _SPREAD,
        _RESIZED,
        {"x": "1 16 h h"},
        tuple({"h": size, "d": 2 * size} for size in (8, 16, 32, 64)),
        made={"f": lambda *_: np.array([1, 1, 2, 2], np.float32)},
        chain=1,
    ),
)
