"""Write every dialect of root-mean-square normalisation as one operator.

    x / sqrt(mean(x x) + eps) * s                                   ->  RMSNormalization{epsilon=eps}(x, s)
    Cast{to=half}(x' / sqrt(mean(x' x') + eps)), x' = Cast{to=float}(x)  ->  RMSNormalization(x, 1)

Source: Zhang and Sennrich, Root Mean Square Layer Normalization, 2019, equation 4; ONNX RMSNormalization,
version 23.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.events import Sites
from graphopt.pipeline import Context, Fidelity, Pass
from graphopt.rewrite import Match, RuleSet, Tape
from graphopt.target import Target, targets

from . import _norms as norms
from ._absorb import Absorb, by_trailing_axes
from ._per_target import per_target
from .fuse_layer_norm import uncast

_FORM = "RMSNormalization"


def _build(match: Match, tape: Tape) -> ir.Value:
    sizes = norms.trailing(match)
    scale = tape.constant(np.ones(sizes), "scale", like=match["x"])
    return tape.op(_FORM, match["x"], scale, axis=-len(sizes), epsilon=norms.epsilon(match))


_UNCAST = uncast(_FORM)


@per_target
def rules(target: Target) -> RuleSet:
    """The rules as far as the target has no objection to them."""
    return RuleSet([*norms.rules(norms.uncentred(), target, _FORM, 23, norms.trailing, _build), _UNCAST])


RULES = rules(targets()["onnx"])
ABSORB = Absorb(_FORM, by_trailing_axes, biased=False)


@dataclass(frozen=True)
class FuseRmsNorm(Pass):
    """Replaces the parts of a root-mean-square normalisation by RMSNormalization, from opset 23 on.

    The mean must be taken over the last axes, and their sizes be known: the scale has their shape. A scale that
    follows goes into the operator when it is a constant of that shape or broadcasts to it. Casts from float16 or
    bfloat16 and back go when nothing is scaled in between.

    Infinities and NaN: an infinite element becomes NaN in both forms, and the others of its row 0. In float16 the
    parts overflow where elements exceed 255, and RMSNormalization, which computes in float, does not.

    Keeps it below opset 23 (``convert-opset{version=23}`` helps), for double, which the operator computes in float;
    where a result in between is used elsewhere; where the axes are not the last ones; and on targets that object.
    """

    name: ClassVar[str] = "fuse-rms-norm"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """The normalisations, then the scales behind them."""
        liked = context.target.objection(_FORM) is None  # at every size
        yield from (RULES if liked else rules(context.target)).sites(model)
        yield from ABSORB.sites(model)
