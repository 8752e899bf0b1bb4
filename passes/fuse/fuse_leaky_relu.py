"""LeakyRelu and PRelu written out, as one operator.

    Relu(x) - a Relu(-x)                        ->  LeakyRelu{alpha=a}(x), PRelu(x, a)    Keras
    Relu(x) + a Min(x, 0), also Max(x, 0) + ..  ->  LeakyRelu{alpha=a}(x), PRelu(x, a)
    Max(x, a x)    with 0 < a < 1               ->  LeakyRelu{alpha=a}(x), PRelu(x, a)    TensorFlow
    Where(x > 0, x, a x), Where(x < 0, a x, x)  ->  LeakyRelu{alpha=a}(x), PRelu(x, a)    JAX

LeakyRelu where a is one number, PRelu where it is several. Source: He et al., Delving Deep into Rectifiers, 2015,
section 2.1. LeakyRelu: ONNX, version 6. PRelu: ONNX, version 7, in which the slope broadcasts to x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Sites
from graphopt.pipeline import Context, Fidelity, Pass
from graphopt.rewrite import Condition, Match, Rewrite, RuleSet, Tape, constant, of_type
from graphopt.target import Target, targets

from ._forms import elements
from ._per_target import per_target


def _is_usable(match: Match) -> str | None:
    """The slope is made of finite numbers and does not enlarge x."""
    slope = match.array("a")
    if not np.isfinite(slope.astype(np.float64)).all():
        return "the slope is not finite"
    shape, rank = gir.dims(match["x"]), slope.ndim
    if shape is None:
        return "the rank of x is unknown" if rank else None
    if rank > len(shape):
        return "the slope adds a dimension"
    tail = shape[len(shape) - rank :]
    fits = all(size in (1, dim) for size, dim in zip(slope.shape, tail, strict=True))
    return None if fits and slope.size else "the slope is not proven to broadcast to x"


def _is_flat(match: Match) -> str | None:
    slope = match.array("a").astype(np.float64)
    return None if bool(np.all((slope > 0) & (slope < 1))) else "the slope is not between 0 and 1"


def _form(match: Match) -> str:
    return "LeakyRelu" if match.array("a").size == 1 else "PRelu"


def _write(match: Match, tape: Tape, sign: int) -> ir.Value:
    slope = match.array("a")
    if slope.size == 1:
        return tape.op("LeakyRelu", match["x"], alpha=sign * float(slope.reshape(()).item()))
    operand = match["a"] if sign > 0 else tape.constant(-slope, "slope")
    return tape.op("PRelu", match["x"], operand)


@per_target
def rules(target: Target) -> RuleSet:
    """The rules for a target."""

    def welcome(match: Match) -> str | None:
        return target.objection(_form(match), elements(match["x"]))

    single = of_type("x", ir.DataType.FLOAT, ir.DataType.FLOAT16)
    where = [single, constant("a"), Condition(_is_usable, ("x", "a")), welcome]

    def rule(pattern: str, sign: int = 1, *more: Condition) -> Rewrite:
        return Rewrite(
            pattern,
            where=[*where, *more],
            build=lambda match, tape: _write(match, tape, sign),
            name="LeakyRelu or PRelu",
            matches=(9, 1 << 30),
        )

    return RuleSet(
        [
            rule("Sub(Relu(x), Mul(a, Relu(Neg(x))))"),
            rule("Add(Relu(x), Mul(a, Relu(Neg(x))))", -1),
            rule("Add(Relu(x), Mul(a, Min(x, 0)))"),
            rule("Add(Max(x, 0), Mul(a, Min(x, 0)))"),
            rule("Max(x, Mul(a, x))", 1, Condition(_is_flat, ("a",), {"a": 0.25})),
            rule("Where(Greater|GreaterOrEqual(x, 0), x, Mul(a, x))"),
            rule("Where(Less|LessOrEqual(x, 0), Mul(a, x), x)"),
        ]
    )


RULES = rules(targets()["onnx"])
"""For all targets that have nothing against LeakyRelu and PRelu, at any size."""


@dataclass(frozen=True)
class FuseLeakyRelu(Pass):
    """Replaces a rectifier with a slope below zero by LeakyRelu, or by PRelu where the slope is several numbers.

    Each is x above zero and a x below, computed by the same multiplication; NaN and infinity come out as they did.

    Keeps it when the slope is not constant, not finite, or does not broadcast to x, for element types other than float
    and float16, of which ONNX Runtime's CPU provider has no kernels, and when a result in between is used elsewhere.
    """

    name: ClassVar[str] = "fuse-leaky-relu"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per rectifier."""
        liked = all(context.target.objection(form) is None for form in ("LeakyRelu", "PRelu"))
        yield from (RULES if liked else rules(context.target)).sites(model)
