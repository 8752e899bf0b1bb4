"""What rounding explains, and what may be forgiven.

Two correct evaluations of one formula in floating point differ by rounding. Each of the ``depth`` operators
between an input and an output adds an error of about one unit of the element type, at random, so errors grow
like a random walk: eps * sqrt(depth), relative to the size of the numbers that flow, not of each single
element (a sum that cancels to zero has an error all the same). A safety factor covers what the walk leaves
out: long sums, ill-conditioned steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

SAFETY = 64.0
"""How far above the random walk a difference may lie (see ``tolerance``).

ONNX Runtime with and without its optimisations differs by 37 times the walk on basic_pitch (the logarithm of
a spectrum), and by 1 on the convolution and transformer models of the catalogue.
"""

HALF_SAFETY = 8.0
"""The same for 16-bit and smaller types, whose single step is large already."""

_CEILINGS = ((1e-2, 0.25), (5e-4, 0.05), (1e-8, 1e-3), (0.0, 1e-9))
_HALF = 5e-4
RANGE = 1e4
"""How far beyond the tenth percentile a magnitude may lie and still count as size of an output."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """An element e of an output may differ by at most ``atol + rtol * |e| + scale * max(|e|, S)``.

    S is the size of the output's numbers: the largest magnitude, leaving out what exceeds its tenth
    percentile by a factor of 10,000 (the -1e9 of a mask would forgive any error in the elements beside it).

    Attributes:
        rtol: relative to the element.
        atol: absolute.
        scale: relative to S.
        integers: how far integers may be apart; 0 asks for equality (1 suits quantised tensors, whose
            rounding may fall to the other side).
        sqnr_db: for floating-point outputs, in place of all that: the least ratio of the output's energy to
            its error's, in decibels.
    """

    rtol: float = 0.0
    atol: float = 0.0
    scale: float = 0.0
    integers: int = 0
    sqnr_db: float | None = None

    @property
    def exact(self) -> bool:
        """True when nothing is forgiven."""
        return self == EXACT

    def __str__(self) -> str:
        if self.exact:
            return "exact"
        if self.sqnr_db is not None:
            return f"an error {self.sqnr_db:.3g} dB below the output"
        parts = [
            (self.scale, "of the largest"),
            (self.rtol, "relative"),
            (self.atol, "absolute"),
            (self.integers, "in integers"),
        ]
        return " + ".join(f"{amount:.2g} {kind}" for amount, kind in parts if amount)


EXACT = Tolerance()
"""Equal in every element."""


def tolerance(dtype: np.dtype[Any] | type, depth: int, safety: float | None = None) -> Tolerance:
    """What rounding explains: ``scale = safety * eps(dtype) * sqrt(depth)``.

    It is at most 1e-3 for float32, 0.05 for float16, 0.25 below.

    Args:
        dtype: the coarsest floating type the numbers pass through; EXACT for types that do not round.
        depth: operators on the longest path to the output.
        safety: the factor above a random walk of one unit for each operator; by default ``SAFETY`` or, for
            16-bit types, ``HALF_SAFETY``.
    """
    dtype = np.dtype(dtype)
    try:
        eps = float(ml_dtypes.finfo(dtype).eps)
    except ValueError:
        return EXACT
    safety = safety if safety is not None else HALF_SAFETY if eps >= _HALF else SAFETY
    limit = next(limit for least, limit in _CEILINGS if eps >= least)
    return Tolerance(scale=min(safety * eps * math.sqrt(max(depth, 1)), limit))
