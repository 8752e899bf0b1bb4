"""Write every dialect of layer normalisation as one operator.

    c = mean(x);  d = x - c;  d / sqrt(mean(d d) + eps) * s + b  ->  LayerNormalization{epsilon=eps}(x, s, b)
    d / sqrt(max(0, mean(x x) - c c) + eps) * s + b              ->  the same
    y = LayerNormalization(x, s, b);  y * t  ->  LayerNormalization(x, s t, b t);  y + t  ->  ...(x, s, b + t)
    Cast{to=half}(LayerNormalization(Cast{to=float}(x), 1))  ->  LayerNormalization(x, 1)

Source: Ba et al., Layer Normalization, 2016, equations 3 and 4; ONNX LayerNormalization, version 17.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.events import Sites
from graphopt.pipeline import Context, Fidelity, Pass
from graphopt.rewrite import Match, Refused, Rewrite, RuleSet, Tape, constant, of_type, that
from graphopt.target import Target, targets

from . import _norms as norms
from ._absorb import Absorb, by_trailing_axes
from ._per_target import per_target

_FORM = "LayerNormalization"


def _check(match: Match) -> None:
    sizes = norms.trailing(match)
    rank = len(match.dims("x"))
    if len(sizes) > 1 and len(sizes) == rank - 2:
        raise Refused("it normalises each channel for itself, which is InstanceNormalization")
    for name in match.pattern.variables & {"g", "h"}:
        if len(match.dims(name)) > rank:
            raise Refused("its scale or bias would add a dimension")
        norms.spread(match.array(name), sizes)


def _build(match: Match, tape: Tape) -> ir.Value:
    sizes = norms.trailing(match)
    names = match.pattern.variables
    operands = [np.ones(sizes) if "g" not in names else norms.spread(match.array("g"), sizes)]
    if "h" in names:
        operands.append(norms.spread(match.array("h"), sizes))
    x = match["x"]
    values = [tape.constant(item, hint, like=x) for item, hint in zip(operands, ("scale", "bias"), strict=False)]
    return tape.op(_FORM, x, *values, axis=-len(sizes), epsilon=norms.epsilon(match))


@per_target
def rules(target: Target) -> RuleSet:
    """The rules as far as the target has no objection to them."""
    texts = (*norms.scaled(), *norms.fast(), *norms.centred())
    return RuleSet([*norms.rules(texts, target, _FORM, 17, _check, _build), _UNCAST])


def uncast(form: str) -> Rewrite:
    """A normalisation with scale 1 in float, between casts from a half type and back: what stash_type says."""

    def build(match: Match, tape: Tape) -> ir.Value:
        scale = tape.constant(match.array("s"), "scale", like=match["x"])
        return tape.op(form, match["x"], scale, attributes=match.attrs("l"))

    return Rewrite(
        f"Cast{{to=t}}({form}{{**l}}(Cast{{to=1}}(x), s))",
        build=build,
        where=[
            of_type("x", *norms.HALVES),
            constant("s"),
            that("the result is cast to another type", lambda match: match.attr("t") == match.dtype("x")),
            that("its scale is applied in float", lambda match: bool((match.array("s") == 1).all())),
            that("it computes in another type", lambda match: match.attr("l.stash_type") == ir.DataType.FLOAT),
        ],
        name=f"casts around {form}",
    )


_UNCAST = uncast(_FORM)
RULES = rules(targets()["onnx"])
ABSORB = Absorb(_FORM, by_trailing_axes)


@dataclass(frozen=True)
class FuseLayerNorm(Pass):
    """Replaces the parts of a layer normalisation by LayerNormalization, from opset 17 on.

    The mean must be taken over the last axes, and their sizes be known: the scale has their shape. A scale and a bias
    that follow, or stand between as Keras and Flax write them, go into the operator when they are constants of that
    shape or broadcast to it. Casts from float16 or bfloat16 and back go when nothing is scaled in between.

    Flax takes the variance as mean square less square of the mean, which loses bits where the mean is large; the
    operator does not, and that is the only difference larger than rounding.

    Infinities and NaN: a row that holds one becomes NaN in both forms. In float16 the parts overflow where
    deviations exceed 255, and LayerNormalization, which computes in float, does not.

    Keeps it for double, which the operator computes in float; where a result in between is used elsewhere; where
    the axes are not the last ones; and on targets that object.
    """

    name: ClassVar[str] = "fuse-layer-norm"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """The normalisations, then what is behind them."""
        liked = context.target.objection(_FORM) is None  # at every size
        yield from (RULES if liked else rules(context.target)).sites(model)
        yield from ABSORB.sites(model)
