"""Two scalings in a row are one.

    (x * a) * b = x * (a b)        (x / a) * b = x * (b / a)
    (x * a) / b = x * (a / b)      (x / a) / b = x / (a b)

Exporters leave them where a normalisation meets an attention scale, a decibel its logarithm (Log(x) * 0.434 * 10), or a
dequantised table its factor. Mul, Div: ONNX operators, from version 7 on (before, they broadcast in another way).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.events import Sites
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass
from graphopt.rewrite import Match, Rewrite, RuleSet, constant, floating, that


def _combined(match: Match, operation: str) -> np.ndarray:
    """The factor, computed in float64 and rounded once; inf or 0 where the element type cannot hold it."""
    first, second = match.array("a"), match.array("b")
    with np.errstate(all="ignore"):
        wide = getattr(np, operation)(second.astype(np.float64), first.astype(np.float64))
        return np.asarray(wide).astype(first.dtype)


def _is_harmless(match: Match) -> bool:
    """Every factor, and what it is made of, is an ordinary number: nothing over- or underflows on the way."""
    parts = [match.array("a"), match.array("b"), _combined(match, "multiply"), _combined(match, "divide")]
    with np.errstate(all="ignore"):
        sizes = np.concatenate([np.abs(part.astype(np.float64)).reshape(-1) for part in parts])
    return bool(np.all((sizes > 1e-4) & (sizes < 1e4)))


def _does_not_grow(match: Match) -> bool:
    first, second = match.array("a"), match.array("b")
    return np.broadcast_shapes(first.shape, second.shape) in (first.shape, second.shape)


def _rule(pattern: str, replacement: str, operation: str) -> Rewrite:
    return Rewrite(
        pattern,
        replacement,
        where=[
            constant("a", "b"),
            floating("x"),
            that("the factors together are a larger tensor than either", _does_not_grow, "a", "b"),
            that("the factors are too large or too small to be sure of", _is_harmless, "a", "b"),
        ],
        let={"c": lambda match: _combined(match, operation)},
        matches=(7, 1 << 30),
    )


RULES = RuleSet(
    [
        _rule("Mul(Mul(x, a), b)", "Mul(x, c)", "multiply"),
        _rule("Mul(Div(x, a), b)", "Mul(x, c)", "divide"),
        _rule("Div(Mul(x, b), a)", "Mul(x, c)", "divide"),
        _rule("Div(Div(x, a), b)", "Div(x, c)", "multiply"),
    ]
)


@dataclass(frozen=True)
class FuseScales(Pass):
    """Multiplies constant factors together.

    Kept: factors beyond 1e-4 to 1e4, whose product may leave the range of the element type or lose bits of x in it,
    factors that broadcast to a tensor larger than both, integers, and a product that is also used elsewhere.
    """

    name: ClassVar[str] = "fuse-scales"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per pair."""
        yield from RULES.sites(model)
