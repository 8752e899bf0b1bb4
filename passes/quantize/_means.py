"""What products gave on average before they were quantised: ``insert-qdq`` keeps it with the nodes, in memory only.

Before and after are compared on the same samples: the difference settles with few, each mean alone does not.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

SAMPLES = 16
"""How many samples of the data means are taken over."""

_KEY = "graphopt.float_mean"


def output_axis(node: ir.Node) -> int:
    """The axis of a product's result along which its output channels lie."""
    return 1 if gir.is_op(node, "Conv", "ConvTranspose") else -1


def remember(node: ir.Node, mean: np.ndarray) -> None:
    """Note the mean of each output channel in float32."""
    node.meta[_KEY] = mean


def remembered(node: ir.Node) -> np.ndarray | None:
    """The noted means, float64 [channels]."""
    return node.meta.get(_KEY)
