"""Sigmoid written out, as one operator.

    1 / (1 + Exp(-x)), Reciprocal(1 + Exp(-x))      ->  Sigmoid(x)
    Exp(x) / (1 + Exp(x))                           ->  Sigmoid(x)
    Tanh(x / 2) / 2 + 1 / 2, (Tanh(x / 2) + 1) / 2  ->  Sigmoid(x)
    x / (1 + Exp(-x))                               ->  x Sigmoid(x)

Source: ONNX Sigmoid, versions 1 to 13.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.events import Sites
from graphopt.pipeline import Context, Fidelity, Pass
from graphopt.rewrite import Rewrite, RuleSet, of_type
from graphopt.target import Target, targets

from ._forms import welcome
from ._per_target import per_target

_FORM = "Sigmoid"
_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
_NEGATIVE = ("Neg(x)", "Mul(x, -1)")
_HALF = ("Mul(x, 0.5)", "Div(x, 2)")


@per_target
def rules(target: Target) -> RuleSet:
    """The rules for a target."""

    def rule(pattern: str, replacement: str = "Sigmoid(x)") -> Rewrite:
        where = [of_type("x", *_TYPES), welcome(target, _FORM)]
        return Rewrite(pattern, replacement, where=where, matches=(7, 1 << 30))

    texts: list[Rewrite] = []
    for negative in _NEGATIVE:
        below = f"Add(1, Exp({negative}))"
        texts += [rule(f"Div(1, {below})"), rule(f"Reciprocal({below})")]
        texts.append(rule(f"Div(x, {below})", "Mul(x, Sigmoid(x))"))
    for half in _HALF:
        texts += [
            rule(f"Add(Mul(Tanh({half}), 0.5), 0.5)"),
            rule(f"Mul(Add(Tanh({half}), 1), 0.5)"),
            rule(f"Div(Add(Tanh({half}), 1), 2)"),
        ]
    return RuleSet([*texts, rule("e = Exp(x); Div(e, Add(1, e))")])


RULES = rules(targets()["onnx"])
"""For all targets that have nothing against Sigmoid, at any size."""


@dataclass(frozen=True)
class FuseSigmoid(Pass):
    """Replaces a sigmoid in terms of exponentials or of the hyperbolic tangent by Sigmoid.

    The operator is at least as exact as any of these forms. Where the graph itself overflows it differs from it:
    Exp(x) / (1 + Exp(x)) is inf / inf for a large x where Sigmoid is 1. NaN and infinity come out of the others as they
    did.

    Keeps it for bfloat16, of which ONNX Runtime's CPU provider has no kernels, and when a result in between is used
    elsewhere.
    """

    name: ClassVar[str] = "fuse-sigmoid"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per sigmoid."""
        liked = context.target.objection(_FORM) is None
        yield from (RULES if liked else rules(context.target)).sites(model)
