"""From what was observed of a tensor to the range that is worth being represented.

    min-max         the whole range
    moving-average  the ends of each sample's range, smoothed over the samples
    percentile      leaves out the given share of numbers, half at either end
    mse             the clipping with the least mean squared error of rounding and clipping together
    entropy         the clipping with the least Kullback-Leibler divergence of the rounded from the true distribution

Sources: Krishnamoorthi, Quantizing deep convolutional networks for efficient inference (2018), section 2 (min-max);
Migacz, 8-bit inference with TensorRT (GTC 2017), entropy; Banner et al., ACIQ (2019), and Nagel et al., A White Paper
on Neural Network Quantization (2021), section 3.1 (MSE, percentile); Jacob et al. (2018), section 3.1 (moving average).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from .observers import Histogram, MovingRange

Calibrator = Literal["min-max", "moving-average", "percentile", "mse", "entropy"]

_Error = Callable[[np.ndarray, np.ndarray, float, float, int], float]

_STEPS = 64
"""Clippings that are tried at each end, from the whole range down to a tenth of it."""


def observer_for(calibrator: str) -> Histogram | MovingRange:
    """A new observer of what a calibrator needs to know."""
    return MovingRange() if calibrator == "moving-average" else Histogram()


def find_range(
    histogram: Histogram | MovingRange,
    calibrator: Calibrator = "min-max",
    *,
    levels: int = 256,
    symmetric: bool = False,
    percentile: float = 99.99,
) -> tuple[float, float]:
    """The range to represent.

    Args:
        histogram: of the tensor: what ``observer_for`` gives, filled.
        calibrator: how.
        levels: how many numbers will represent the range.
        symmetric: the range will be made symmetric about 0.
        percentile: the share of numbers, in per cent, that ``percentile`` keeps.

    Returns:
        the lower and the upper end; 0 lies between them, or is one of them.
    """
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if not histogram.elements or low > high or low == high == 0.0:
        return 0.0, 0.0
    if isinstance(histogram, MovingRange):
        return low, high
    if calibrator == "percentile":
        return _percentile(histogram, percentile, low, high)
    if calibrator == "mse":
        return _least(histogram, levels, low, high, symmetric=symmetric, error=_squared_error)
    if calibrator == "entropy":
        return _least(histogram, levels, low, high, symmetric=symmetric, error=_divergence)
    return low, high


def _percentile(histogram: Histogram, percentile: float, low: float, high: float) -> tuple[float, float]:
    total = np.cumsum(histogram.counts)
    one_sided = histogram.low >= 0 or histogram.high <= 0
    tail = (1 - percentile / 100) * total[-1] / (1 if one_sided else 2)
    lower = histogram.first + int(np.searchsorted(total, tail, side="right"))
    upper = histogram.first + int(np.searchsorted(total, total[-1] - tail, side="left")) + 1
    new_low = low if histogram.low >= 0 else max(low, min(lower * histogram.width, 0.0))
    new_high = high if histogram.high <= 0 else min(high, max(upper * histogram.width, 0.0))
    return new_low, new_high


def _least(
    histogram: Histogram, levels: int, low: float, high: float, *, symmetric: bool, error: _Error
) -> tuple[float, float]:
    """The ends with the least error: first both shrunk by one factor, then each alone, around the best."""
    centres, counts = histogram.centres, histogram.counts.astype(np.float64)
    if 0 <= -histogram.first < len(counts):
        counts[-histogram.first] -= histogram.zeros  # 0 is always represented, and costs nothing
    if symmetric:
        ends = max(-low, high)
        scores = [error(centres, counts, -ends * cut, ends * cut, levels) for cut in _cuts()]
        cut = _cuts()[int(np.argmin(scores))]
        return -ends * cut, ends * cut
    best = (low, high)
    for one_end in ((True, True), (False, True), (True, False)):
        tried = [(low * cut if one_end[0] else best[0], high * cut if one_end[1] else best[1]) for cut in _cuts()]
        scores = [error(centres, counts, *ends, levels) for ends in (*tried, best)]
        best = (*tried, best)[int(np.argmin(scores))]
    return best


def _cuts() -> list[float]:
    return np.linspace(1.0, 0.1, _STEPS).tolist()


def _squared_error(centres: np.ndarray, counts: np.ndarray, low: float, high: float, levels: int) -> float:
    """Sum over the numbers of the squared distance to what represents them."""
    scale = (high - low) / (levels - 1)
    if scale <= 0:
        return float(np.sum(counts * centres**2))
    zero = np.round(-low / scale)
    codes = np.clip(np.round(centres / scale) + zero, 0, levels - 1)
    return float(np.sum(counts * ((codes - zero) * scale - centres) ** 2))


def _divergence(centres: np.ndarray, counts: np.ndarray, low: float, high: float, levels: int) -> float:
    """KL(P || Q): P the distribution with what is clipped added to its ends, Q as the levels tell it apart."""
    inside = (centres >= low) & (centres <= high)
    if not inside.any() or high <= low:
        return np.inf
    kept = counts[inside].copy()
    kept[0] += counts[centres < low].sum()
    kept[-1] += counts[centres > high].sum()
    bucket = np.minimum(((centres[inside] - low) / (high - low) * levels).astype(np.int64), levels - 1)
    raw = counts[inside]
    present = raw > 0
    sums = np.bincount(bucket, weights=raw, minlength=levels)
    sizes = np.bincount(bucket, weights=present, minlength=levels)
    spread = np.where(present, sums[bucket] / np.maximum(sizes[bucket], 1), 0.0)
    if not spread.sum() or not kept.sum():
        return np.inf
    p, q = kept / kept.sum(), spread / spread.sum()
    where = p > 0
    if np.any(q[where] == 0):
        q = np.where(where & (q == 0), 1e-9, q)
    return float(np.sum(p[where] * np.log(p[where] / q[where])))
