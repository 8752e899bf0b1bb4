"""The codes and the scales of one product, from the moments of its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ._rounding import Form, Grid, Moments, descend, feed_back, fitted_scale, form_of, search_scale

RIDGE = 0.03
"""Of the form in which codes are chosen: dead and rare inputs count a little too."""

RIDGES = (0.03, 0.3, 3.0)
"""How freely the weight that is rounded follows the data, from freely to hardly; the samples left out decide."""

FITS = 2

_Codes = tuple[Grid, np.ndarray]


@dataclass(frozen=True)
class Solution:
    """What was found.

    Attributes:
        grid: with the scales.
        codes: float64 [G, R, F].
        method: how the codes were found: ``nearest``, ``feedback`` or ``descent``; empty when they are those given.
        before, after: the error of the outputs as a share of their power, with the codes as they were and as they are.
    """

    grid: Grid
    codes: np.ndarray
    method: str
    before: float
    after: float


def solve(
    weight: np.ndarray,
    grid: Grid,
    codes: np.ndarray,
    parts: Sequence[Moments],
    *,
    centred: bool,
    refit: bool = True,
) -> Solution:
    """Codes with which the outputs change least; those there are when nothing better is found.

    How freely the weight follows the data, and how it is rounded, is what makes the outputs of samples that were left
    out change least; what is found so is then computed from all samples.

    Args:
        weight: float64 [G, R, F], in float.
        grid: as it is.
        codes: as they are, float64 [G, R, F].
        parts: the moments of some samples and of others; of all in one when there is one sample only.
        centred: a bias takes up constant differences.
        refit: the weight may follow the data before it is rounded.
    """
    everything = sum(parts[1:], start=parts[0])
    if centred:
        parts, everything = [part.centred() for part in parts], everything.centred()
    power = float(everything.power.sum()) or 1.0
    before = float(everything.error(grid.weight(codes)).sum()) / power
    given = Solution(grid, codes, "", before, before)
    ridge, truth = _ridge(weight, parts) if refit else None, parts[-1]
    errors = {
        method: float(truth.error(found.weight(rounded)).sum())
        for method, (found, rounded) in _rounded(weight, grid, parts[0], ridge).items()
    }
    method = min(errors, key=lambda name: errors[name])
    if errors[method] >= float(truth.error(grid.weight(codes)).sum()):
        return given
    found, rounded = _rounded(weight, grid, everything, ridge)[method]
    after = float(everything.error(found.weight(rounded)).sum()) / power
    return Solution(found, rounded, method, before, after) if after < before else given


def _ridge(weight: np.ndarray, parts: Sequence[Moments]) -> float | None:
    """How freely the weight may follow the first part of the data, so that it fits the second one best."""
    if len(parts) < 2:
        return None
    errors: dict[float | None, float] = {None: float(parts[1].error(weight).sum())}
    for ridge in RIDGES:
        errors[ridge] = float(parts[1].error(form_of(parts[0], weight, ridge=ridge).target).sum())
    return min(errors, key=lambda ridge: errors[ridge])


def _rounded(weight: np.ndarray, grid: Grid, moments: Moments, ridge: float | None) -> dict[str, _Codes]:
    """What each method makes of a weight."""
    free = weight if ridge is None else form_of(moments, weight, ridge=ridge).target
    form = Form(form_of(moments, weight, ridge=RIDGE, refit=False).gram, free)
    searched = search_scale(form, grid)
    found = {"nearest": (searched, searched.codes(free)), "feedback": (searched, feed_back(form, searched))}
    scales, codes = min(found.values(), key=lambda item: form.value(item[0].weight(item[1])).sum())
    codes = descend(form, scales, codes)
    for _ in range(FITS):
        scales = _near(fitted_scale(form, scales, codes), grid)
        codes = descend(form, scales, codes)
    return {**found, "descent": (scales, codes)}


def _near(found: Grid, given: Grid) -> Grid:
    """Scales that stay of the order of those given: the bias, an int32 at s_x s_w, depends on that."""
    return replace(found, scale=np.clip(found.scale, 0.25 * given.scale, 2.0 * given.scale))
