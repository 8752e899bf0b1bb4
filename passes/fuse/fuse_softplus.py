"""Softplus as one operator.

    Log(1 + Exp(x))               ->  Softplus(x)
    Where(x > k, x, Softplus(x))  ->  Softplus(x)    k >= 17, as torch's dynamo exporter writes it

Softplus: ONNX, version 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.events import Sites
from graphopt.pipeline import Context, Fidelity, Pass
from graphopt.rewrite import Match, Rewrite, RuleSet, of_type, scalar, that
from graphopt.target import Target, targets

from ._forms import welcome
from ._per_target import per_target


def _is_beyond(match: Match) -> bool:
    """Softplus(x) = x + Log(1 + Exp(-x)), and Exp(-17) is less than half a unit of 17 in the last place."""
    return match.number("k") >= 17


@per_target
def rules(target: Target) -> RuleSet:
    """The rule for a target."""
    where = [of_type("x", ir.DataType.FLOAT, ir.DataType.FLOAT16), welcome(target, "Softplus")]
    beyond = [scalar("k"), that("for x just above the threshold, Softplus is more than x", _is_beyond, "k")]
    since = (9, 1 << 30)
    return RuleSet(
        [
            Rewrite("Log(Add|Sum(Exp(x), 1))", "Softplus(x)", where=where, matches=since),
            Rewrite("Where(Greater(x, k), x, Softplus(x))", "Softplus(x)", where=[*where, *beyond], matches=since),
        ]
    )


RULES = rules(targets()["onnx"])
"""For all targets that have nothing against Softplus, at any size."""


@dataclass(frozen=True)
class FuseSoftplus(Pass):
    """Replaces Log(1 + Exp(x)) by Softplus, which is never less exact.

    Far below 0, 1 + Exp(x) drops the bits that Softplus keeps. For a large x, Exp overflows and the graph gives inf
    where Softplus gives x: this is the one place where the results differ by more than rounding. A Where that takes x
    itself beyond a threshold takes what Softplus gives anyway.

    Keeps it for double and bfloat16, for which ONNX Runtime has no Softplus, when a result in between is used
    elsewhere, and when the threshold is below 17.
    """

    name: ClassVar[str] = "fuse-softplus"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per softplus."""
        liked = context.target.objection("Softplus") is None
        yield from (RULES if liked else rules(context.target)).sites(model)
