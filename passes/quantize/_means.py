"""What products gave on average before they were quantised: ``insert-qdq`` keeps it with the nodes, in memory only.

Before and after are compared sample by sample: the difference settles with few samples, each mean alone does not. How
much of it is chance shows in how far samples differ in it:

    shift = m m^2 / (m^2 + v / n)       m, v: mean and variance over n samples of the difference of a channel's means

so that a channel that is shifted in all samples alike is corrected in full, and one that is not is left alone (the
empirical Wiener estimate of a mean; Efron and Morris, 1973, for why shrinking is right where there are many of them).
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


def remember(node: ir.Node, means: np.ndarray) -> None:
    """Note the mean of each output channel in float32, float64 [samples, channels]."""
    node.meta[_KEY] = means


def taken(node: ir.Node) -> np.ndarray | None:
    """The noted means, float64 [samples, channels]; they are let go, since they belong to the data of this run only."""
    return node.meta.pop(_KEY, None)


def shift_of(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """By how much each channel's mean has moved, as far as it is no chance: float64 [channels].

    Args:
        before: means of each channel in each sample, [samples, channels], at least two samples.
        after: the same of what the channel gives now.
    """
    moved = after - before
    mean = moved.mean(axis=0)
    chance = moved.var(axis=0, ddof=1) / len(moved)
    power = mean**2
    return mean * np.divide(power, power + chance, out=np.ones_like(power), where=power + chance > 0)
