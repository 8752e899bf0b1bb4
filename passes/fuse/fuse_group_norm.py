"""Write group normalisation as one operator, for targets that have a kernel for it.

    reshape(InstanceNormalization(reshape(x, N x G x rest), 1, 0), shape of x)
        ->  GroupNormalization{num_groups=G}(x, 1, 0)
    y = GroupNormalization(x, s, b);  y * t  ->  GroupNormalization(x, s t, b t);  y + t  ->  ...(x, s, b + t)

where s, b, t have one number for each channel.

Source: Wu and He, Group Normalization, 2018, equations 1 and 2; ONNX GroupNormalization, version 21 (version 18 had
one number for each group).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.events import Sites
from graphopt.pipeline import Context, Fidelity, Pass
from graphopt.rewrite import Match, Rewrite, RuleSet, Tape, constant, of_type, same_shape, that

from . import _norms as norms
from ._absorb import Absorb, by_channel

_FORM, _SINCE = "GroupNormalization", 21


def _is_grouped(match: Match) -> bool:
    """Groups are whole channels of one picture: as many pictures, G groups, and the rest."""
    shape, grouped = match.dims("x"), match.dims("r")
    groups = match.array("s").size
    if len(shape) < 3 or len(grouped) != 3 or grouped[1] != groups or groups < 1:
        return False
    channels = shape[1]
    return shape[0] is not None and shape[0] == grouped[0] and isinstance(channels, int) and channels % groups == 0


def _build(match: Match, tape: Tape) -> ir.Value:
    channels = match.dims("x")[1]
    assert isinstance(channels, int)
    scale = tape.constant(np.ones(channels), "scale", like=match["x"])
    bias = tape.constant(np.zeros(channels), "bias", like=match["x"])
    groups = match.array("s").size
    return tape.op(_FORM, match["x"], scale, bias, num_groups=groups, epsilon=match.attr("e"))


RULES = RuleSet(
    [
        Rewrite(
            """r = Reshape{**p}(x, to)
            y = Reshape{**q}(InstanceNormalization{epsilon=e}(r, s, b), back)""",
            build=_build,
            where=[
                of_type("x", *norms.TYPES),
                constant("s", "b"),
                that("it is scaled by group", lambda match: (match.array("s") == 1).all(), "s"),
                that("it is shifted by group", lambda match: not match.array("b").any(), "b"),
                same_shape("x", "y"),
                that("it is not proven to split the channels into groups", _is_grouped),
            ],
            opset=_SINCE,
            name=_FORM,
        )
    ]
)
ABSORB = Absorb(_FORM, by_channel, since=_SINCE)


@dataclass(frozen=True)
class FuseGroupNorm(Pass):
    """Replaces two Reshapes and an InstanceNormalization by GroupNormalization, from opset 21 on.

    Only for targets that are known to gain by it. ONNX defines the operator as a function whose variance is the mean
    square less the square of the mean: a runtime without a kernel, such as ONNX Runtime's CPU provider, computes
    it in some thirty steps, and less exactly where the mean is large.

    Infinities and NaN: a group that holds one becomes NaN in both forms.
    """

    name: ClassVar[str] = "fuse-group-norm"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """The normalisations, then what is behind them."""
        if not context.target.likes(_FORM):
            return
        yield from RULES.sites(model)
        yield from ABSORB.sites(model)
